"""The page *what the kernel does*, written from the steps that were played."""

from collections.abc import Callable, Sequence

from hostmm.machine.vocabulary import WORDS
from hostmm.policies import POLICIES, Chain, Move, Policy
from shootdown.report.markdown import markdown_table
from shootdown.report.steps import Comparison, Line

__all__ = ["page"]

_HEAD = """\
# What the kernel does

Written by `shootdown policies --markdown docs/kernel.md` from the steps that each policy executed, one passage through
each mm path on an empty machine; a test holds this page against a new run. `shootdown policies PATH` prints one path.

The same step stands on the same line. **Callbacks are bold**: one that stands on several lines is one that moved. A
dash says that the kernel had no such path. What a policy holds when the path begins is the first line.
"""

_CHAINS = {
    Chain.RCU: "under RCU: no callback sleeps",
    Chain.SRCU: "under SRCU",
    Chain.LIST: "a list that nobody leaves",
}
_MOVES = {
    Move.EXTENT: "each PTE, bracket by extent",
    Move.LATE: "once, behind the locks",
    Move.LOCKED: "each extent, under the locks",
}
_WHEN = {True: "before its release", False: "behind its release"}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_ROWS: tuple[tuple[str, Callable[[Policy], str]], ...] = (
    ("the chain is walked", lambda p: _CHAINS[p.chain]),
    ("a non-zero answer ends the walk", lambda p: _yes(p.stops_at_first)),
    ("the locks of the reverse maps", lambda p: "sleep" if p.rmap_sleeps else "spin"),
    ("registration takes every lock", lambda p: _yes(p.takes_all_locks)),
    ("exit takes a subscriber off the chain", lambda p: _WHEN[p.unhashes_before_release]),
    ("exit and unregistration wait for a release", lambda p: _yes(p.waits_for_release)),
    ("a CPU TLB flush notifies (IVR)", lambda p: _yes(p.flush_invalidates)),
    ("range end notifies IVR first", lambda p: _yes(p.end_invalidates)),
    ("reclaim tests young again before it unmaps", lambda p: _yes(p.rechecks_young)),
    ("pages of a range are freed inside its bracket", lambda p: _yes(p.frees_inside)),
    ("a zap flushes dirty shared pages under the lock", lambda p: _yes(p.flushes_dirty_locked)),
    ("mremap flushes", lambda p: _MOVES[p.move]),
    ("mremap moves whole tables", lambda p: _yes(p.moves_tables)),
    ("fork without memory skips range end", lambda p: _yes(p.fork_unpaired)),
    ("fork copies pinned pages", lambda p: _yes(p.fork_copies_pinned)),
)


def page(comparisons: Sequence[Comparison]) -> str:
    """Return the page in Markdown."""
    parts = [_HEAD, "## Words", _words(), "## Policies", _policies()]
    parts += [_section(comparison) for comparison in comparisons]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _words() -> str:
    return markdown_table(["word", "what happened"], [[word, what] for word, what in WORDS.items()])


def _policies() -> str:
    rows = [[what, *(read(policy) for policy in POLICIES.values())] for what, read in _ROWS]
    return markdown_table(["", *POLICIES], rows)


def _section(comparison: Comparison) -> str:
    stage = comparison.stage
    number = stage.section
    heading = f"## {stage.name} ({number})"
    held = [
        "—" if passage is None else "_" + (" ".join(passage.held) or "nothing") + "_"
        for passage in comparison.passages.values()
    ]
    rows = [held] + [_cells(comparison, line) for line in comparison.lines]
    title = stage.title[0].upper() + stage.title[1:] + "."
    return "\n\n".join([heading, title, markdown_table(list(comparison.passages), rows)])


def _cells(comparison: Comparison, line: Line) -> list[str]:
    word = f"**`{line.word}`**" if line.callback else f"`{line.word}`"
    return [word if name in line.policies else "" for name in comparison.passages]
