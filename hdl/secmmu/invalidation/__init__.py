"""Commands: what they kill, hold and wait for, and the log that drop-ins are held against."""
