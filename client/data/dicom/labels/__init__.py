"""Contours and segments as masks."""
