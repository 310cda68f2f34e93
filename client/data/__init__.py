"""From a site's files to cached arrays."""
