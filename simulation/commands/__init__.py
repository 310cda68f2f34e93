"""What `asdnet-sim` can be asked for, a module each."""
