"""The subcommands of `asdnet-site`, a module each."""
