"""The site's data folder: which of its files make a case, and what is wrong where they do not."""
