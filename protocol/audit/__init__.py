"""The audit log of either side, and the report of it."""
