"""Administration of the centre: keys, certificates, sites, the SuperLink's settings."""
