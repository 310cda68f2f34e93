"""The subcommands of `asdnet-sim`, a module each."""
