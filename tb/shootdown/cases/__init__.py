"""Coroutines that cocotb runs inside a simulator, one module per device under test."""
