"""A recorded program, played against the host model."""
