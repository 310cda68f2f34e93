"""The report of an experiment: its sections, and the page that holds them."""
