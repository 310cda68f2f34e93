"""What `asdnet-site` can be asked for, a module each."""
