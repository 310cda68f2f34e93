"""How a study goes and went: MLflow, run folder, terminal, report."""
