"""The outside tools: found, fed with designs, run."""
