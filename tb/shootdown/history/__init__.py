"""What happened in a run, read back from its timeline once, for every check and measure."""

from shootdown.history.changes import Pass, PteChange
from shootdown.history.facts import NEVER, Callback, Command, Entry, Freed, Use, Walk
from shootdown.history.rows import last_before
from shootdown.history.run import History
from shootdown.history.subscriptions import Subscription
from shootdown.history.tables import Mapping

__all__ = [
    "NEVER",
    "Callback",
    "Command",
    "Entry",
    "Freed",
    "History",
    "Mapping",
    "Pass",
    "PteChange",
    "Subscription",
    "Use",
    "Walk",
    "last_before",
]
