"""Experiments: every method on one cohort, the results on disk, and the report."""
