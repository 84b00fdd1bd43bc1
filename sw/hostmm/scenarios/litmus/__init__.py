"""Litmus tests: small scripts that say which threads do what, in which order, and what must not come out."""

from hostmm.scenarios.litmus.parse import LitmusError, parse, read
from hostmm.scenarios.litmus.play import SUFFIX, Litmus, bugs, races, shipped
from hostmm.scenarios.litmus.script import Script

__all__ = ["SUFFIX", "Litmus", "LitmusError", "Script", "bugs", "parse", "races", "read", "shipped"]
