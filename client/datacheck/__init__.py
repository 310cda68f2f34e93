"""The data check: properties of a site's cases, and which of them are used."""
