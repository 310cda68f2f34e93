"""The data check: what a site's cases are like, and which of them are used."""
