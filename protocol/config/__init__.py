"""Configuration of a study and of a site."""
