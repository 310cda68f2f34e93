"""The subcommands of `asdnet-centre`."""
