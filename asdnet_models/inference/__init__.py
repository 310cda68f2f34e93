"""Inference of trained networks on whole volumes."""
