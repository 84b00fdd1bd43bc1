"""The subcommands of ``shootdown``, one module each; each has ``add_parser(subparsers)``."""
