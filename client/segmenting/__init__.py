"""Segments new scans with a trained model."""
