"""I4 and I6 on data: every device load returns what its address space may show there at some moment of the load.

Allowed is what the page that stands at the address held while it stood there, between the cycle in which the load
was issued and the row at which its data arrived. A page that was cleared still counts until another is set that a
CPU can store to; what a sharer stores into it once COW has dropped its mapcount does not count (I6).
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from secmmu.layouts import PAGE_BITS
from shootdown.checks.violation import NO_PATH, Finding, Findings
from shootdown.history import NEVER, History, Mapping, Use
from shootdown.history.bursts import Burst, Load

__all__ = ["StaleWord", "check_data", "may_show", "stale_words"]

_OFFSET = (1 << PAGE_BITS) - 1


@dataclass(slots=True, frozen=True)
class StaleWord:
    """A word that a device load must not have returned."""

    burst: Burst
    use: Use
    load: Load
    position: int
    value: int

    @property
    def va(self) -> int:
        """Its virtual byte address."""
        return self.burst.va + 8 * self.position

    @property
    def what(self) -> str:
        """What a message says that the device did."""
        return f"the device read {self.value:#x} at va {self.va:#x} of mm {self.burst.mm}"

    def source(self, history: History) -> Mapping | None:
        """Return the page that it came from, None where that was never mapped there."""
        pages = history.pages.get((self.burst.mm, self.va >> PAGE_BITS), [])
        return next((page for page in reversed(pages) if page.pfn == self.use.pfn), None)


_found: WeakKeyDictionary[History, list[StaleWord]] = WeakKeyDictionary()


def stale_words(history: History) -> list[StaleWord]:
    """Return every loaded word that the contract does not allow, in order of time; judged once a history."""
    if history not in _found:
        _found[history] = _judge(history)
    return _found[history]


def _judge(history: History) -> list[StaleWord]:
    stale = []
    for burst in history.bursts:
        if burst.write or burst.use is None:
            continue
        begin = history.rows.row_of_cycle(burst.issued)
        for load in burst.loads:
            for position, value in enumerate(load.words, load.beat):
                word = StaleWord(burst, burst.use, load, position, value)
                if not may_show(history, word, begin):
                    stale.append(word)
    return stale


def may_show(history: History, word: StaleWord, begin: int) -> bool:
    """Whether the address may show the word at some moment from row ``begin`` to the row at which it arrived."""
    vpn, offset = word.va >> PAGE_BITS, word.va & _OFFSET
    for page in reversed(history.pages.get((word.burst.mm, vpn), [])):
        low, high = max(begin, page.begin), min(word.load.row, page.end)
        if low > high:
            continue
        held = history.memory.may_hold((page.pfn << PAGE_BITS) + offset, word.value, low, high)
        if held and _foreign_store(history, page, word.burst.mm, word.value) is None:
            return True
    return False


def _foreign_store(history: History, page: Mapping, mm: int, value: int) -> int | None:
    """Row at which another mm stored ``value`` into the page after COW had dropped this mm's claim to it."""
    if page.dropped == NEVER:
        return None
    rows = history.rows
    for row in history.memory.stores_of(value):
        ours = int(rows["mm"][row]) == mm or int(rows["pfn"][row]) != page.pfn
        if row > page.dropped and not ours:
            return row
    return None


def check_data(history: History) -> Findings:
    """I4 and I6: yield every loaded word that the contract does not allow, in order of time."""
    for word in stale_words(history):
        yield _explain(history, word)


def _explain(history: History, word: StaleWord) -> Finding:
    """Say which invariant a word breaks: where it came from, and who should have kept it away."""
    rows, use, what = history.rows, word.use, word.what
    cycle = rows.cycle_of(word.load.row)
    address = use.pa + 8 * word.position
    held = history.memory.may_hold(address, word.value, use.begin, word.load.row)
    old = word.source(history)
    if not held:
        return _hard(cycle, use, f"{what}, which frame {use.pfn:#x} did not hold: corrupted data")
    if old is None:
        return _hard(cycle, use, f"{what} in frame {use.pfn:#x}, which was never mapped there")
    if old.cleared == NEVER:
        return _hard(cycle, use, f"{what} in frame {use.pfn:#x}, where it was not at that time")
    path, thread = rows.path_of(old.cleared), rows.thread_of(old.cleared)
    row = _foreign_store(history, old, word.burst.mm, word.value)
    if row is not None:
        writer = f"mm {int(rows['mm'][row])} ({rows.thread_of(row)}, cycle {rows.cycle_of(row)})"
        return Finding(
            "I6",
            path,
            cycle,
            thread,
            f"{what}: private data that {writer} stored in frame {use.pfn:#x}",
            use,
        )
    return Finding(
        "I4",
        path,
        cycle,
        thread,
        f"{what} from frame {use.pfn:#x}, replaced in cycle {rows.cycle_of(min(old.end, rows.count - 1))}",
        use,
    )


def _hard(cycle: int, use: Use, what: str) -> Finding:
    return Finding("I4", NO_PATH, cycle, NO_PATH, what, use, excusable=False)
