"""The bench: joins host model and hardware, checks, measures and reports; the command line."""
