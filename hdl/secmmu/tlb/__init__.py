"""The TLB: 4 KiB entries in block RAM beside an associative part, and what keeps both true to invalidations."""
