"""The audit logs of the sites and the centre, and their report."""
