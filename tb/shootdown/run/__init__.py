"""One run: what it is, its carrier, what it left behind."""
