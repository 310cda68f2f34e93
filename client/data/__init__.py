"""A site's files: reading, checking and caching them as arrays."""
