"""Proofs over the RTL: harnesses with assertions, handed to SymbiYosys and z3."""
