"""Litmus tests over policies and subscribers: which cells exist, what each showed."""

from shootdown.litmus.cells import Cell, cell, missing, observe, observe_on_model

__all__ = ["Cell", "cell", "missing", "observe", "observe_on_model"]
