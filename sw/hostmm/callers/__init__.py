"""Who takes the mm paths: loads and stores, faults, system calls, reclaim, writeback."""
