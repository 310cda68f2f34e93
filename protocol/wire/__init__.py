"""The messages between centre and sites, and the packing of weights."""
