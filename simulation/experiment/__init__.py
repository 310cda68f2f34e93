"""Every method on one cohort: what is run, what it leaves behind, and the report of it."""
