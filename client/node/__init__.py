"""Joining the federation, and guarding what runs and what leaves."""
