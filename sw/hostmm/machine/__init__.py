"""What everything runs on: threads, locks, costs, the clock, and the record of what happened."""
