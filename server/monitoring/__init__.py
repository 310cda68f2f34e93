"""Monitoring of a study: MLflow, run folder, terminal, report."""
