"""A trained network over whole volumes."""
