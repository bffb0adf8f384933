"""The command line: `secfad` and its subcommands."""
