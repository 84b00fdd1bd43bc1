"""I5: what a store of another location made known is seen by the device's loads (litmus test L2)."""

from shootdown.checks.data import StaleWord, may_show, stale_words
from shootdown.checks.violation import NO_PATH, Finding, Findings
from shootdown.history import NEVER, History

__all__ = ["check_order", "count_ordered_loads"]


def check_order(history: History) -> Findings:
    """Yield device loads that are older than a store that had happened before them.

    Only what I4 does not allow can break it: of what may be read, ever less is left as time goes on.
    """
    for word in stale_words(history):
        row = history.causality.newest_store(word.burst, word.va)
        if row is None or any(newer > row for newer in history.memory.stores_of(word.value)):
            continue
        if not may_show(history, word, row):
            yield _explain(history, word, row)


def _explain(history: History, word: StaleWord, row: int) -> Finding:
    rows = history.rows
    old = word.source(history)
    path, thread = NO_PATH, NO_PATH
    if old is not None and old.cleared != NEVER:
        path, thread = rows.path_of(old.cleared), rows.thread_of(old.cleared)
    return Finding(
        "I5",
        path,
        rows.cycle_of(word.load.row),
        thread,
        f"{word.what}, although what {rows.thread_of(row)} stored there in cycle {rows.cycle_of(row)} had happened "
        "before that load",
        word.use,
    )


def count_ordered_loads(history: History) -> int:
    """Count device loads of pages of which a store to the first word is known to have happened before."""
    reads = [burst for burst in history.bursts if burst.loads]
    return sum(history.causality.newest_store(burst, burst.va) is not None for burst in reads)
