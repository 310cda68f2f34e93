"""Compares each instruction with what this site has agreed to, before anything runs."""
