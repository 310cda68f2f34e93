"""The same job done by others; each folder here is a small project of its own."""
