"""The same job done by other frameworks; each folder here is a small project of its own."""
