"""Every private or patched name of Flower: what it is for, and what fails when it moves."""
