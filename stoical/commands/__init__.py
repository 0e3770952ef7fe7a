"""One file a subcommand of `stoical`: the only room that reads the command line."""
