"""Litmus tests: small scripts that say which threads do what, in which order, and what must not come out."""

from hostmm.scenarios.litmus.parse import LitmusError, parse, read
from hostmm.scenarios.litmus.play import SUFFIX, Litmus, bugs, hmm, races, shipped, trial
from hostmm.scenarios.litmus.script import Script

__all__ = [
    "SUFFIX",
    "Litmus",
    "LitmusError",
    "Script",
    "bugs",
    "hmm",
    "parse",
    "races",
    "read",
    "shipped",
    "trial",
]
