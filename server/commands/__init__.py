"""What `asdnet-centre` can be asked for."""
