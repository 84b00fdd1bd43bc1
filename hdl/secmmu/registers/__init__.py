"""What software sets and reads: registers, counters, the context table."""
