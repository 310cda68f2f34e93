"""Keys, certificates, sites and the SuperLink of the centre."""
