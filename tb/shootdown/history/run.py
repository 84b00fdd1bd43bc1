"""The history of one run: everything that checks and measures ask of it, computed once."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from hostmm.machine.timeline import Row, Timeline
from hostmm.policies import Policy
from secmmu.layouts import PAGE_BITS
from shootdown.history.bursts import Burst, device_bursts
from shootdown.history.causality import Causality
from shootdown.history.changes import Pass, PteChange, passes, pte_changes
from shootdown.history.facts import Callback, Command, Entry, Freed, Use, Walk
from shootdown.history.memory import Memory
from shootdown.history.owners import Owners
from shootdown.history.replay import Replay
from shootdown.history.rows import Rows
from shootdown.history.subscriptions import Subscription, subscriptions
from shootdown.history.tables import Mapping, page_histories

__all__ = ["History"]


class History:
    """A run, read back from its timeline.

    Parameters
    ----------
    timeline : Timeline
        The finished run's; it is read once, here.
    policy : Policy
        The policy that the run was under: when its paths should have notified.
    """

    def __init__(self, timeline: Timeline, policy: Policy) -> None:
        self.policy = policy
        self.rows = Rows(timeline)

    @cached_property
    def mirror(self) -> Replay:
        """The mirror of the MMU."""
        return Replay(self.rows, self.owners, self.policy)

    @cached_property
    def owners(self) -> Owners:
        """Whose address space each asid is."""
        return Owners(self.rows)

    @property
    def commands(self) -> list[Command]:
        """Every command that reached the port, in order."""
        return self.mirror.commands

    @cached_property
    def _accepted(self) -> list[int]:
        return [command.accepted for command in self.commands]

    def commands_before(self, row: int) -> Iterator[Command]:
        """Commands that the port had taken before ``row``, newest first."""
        return reversed(self.commands[: bisect_left(self._accepted, row)])

    @property
    def entries(self) -> list[Entry]:
        """Every TLB entry there was, in order of filling."""
        return self.mirror.entries

    @property
    def uses(self) -> list[Use]:
        """Every burst on the memory side, in order of beginning."""
        return self.mirror.uses

    @property
    def walks(self) -> list[Walk]:
        """Every walk, in order of beginning."""
        return self.mirror.walks

    @property
    def callbacks(self) -> list[Callback]:
        """Every notifier callback, in order of beginning."""
        return self.mirror.callbacks

    @property
    def freed(self) -> list[Freed]:
        """Every free, with what still reached the frame."""
        return self.mirror.freed

    @cached_property
    def frees_of(self) -> dict[int, list[int]]:
        """Rows at which each frame was freed, ascending."""
        found: dict[int, list[int]] = defaultdict(list)
        for row, pfn in self.rows.take(self.rows.of(Row.FREE), "pfn"):
            found[pfn].append(row)
        return found

    @cached_property
    def callbacks_of(self) -> dict[int, list[Callback]]:
        """Callbacks by the span of the pass that made them, each in order."""
        found: dict[int, list[Callback]] = defaultdict(list)
        for callback in self.callbacks:
            found[callback.span].append(callback)
        return found

    @cached_property
    def changes(self) -> list[PteChange]:
        """Every change of a leaf PTE, in order."""
        return pte_changes(self.rows)

    @cached_property
    def passes(self) -> dict[int, Pass]:
        """Every pass through an mm path, by span."""
        return passes(self.rows)

    @cached_property
    def subscriptions(self) -> list[Subscription]:
        """Every subscriber of every mm, in order of registration."""
        return subscriptions(self.rows)

    @cached_property
    def _entries_of(self) -> tuple[dict[tuple[int, int], list[Entry]], list[Entry]]:
        """Entries of base pages by (mm, vpn), and the larger ones."""
        base: dict[tuple[int, int], list[Entry]] = defaultdict(list)
        large = []
        for entry in self.entries:
            if entry.first == entry.last:
                base[entry.mm, entry.first].append(entry)
            else:
                large.append(entry)
        return base, large

    def entries_of(self, mm: int, vpn: int) -> list[Entry]:
        """Return every entry there was for a page of an address space."""
        base, large = self._entries_of
        over = [e for e in large if e.mm == mm and e.first <= vpn <= e.last]
        return [*base.get((mm, vpn), ()), *over]

    @cached_property
    def uses_of(self) -> dict[tuple[int, int], list[Use]]:
        """Uses by (mm, vpn), each in order of beginning."""
        found: dict[tuple[int, int], list[Use]] = defaultdict(list)
        for use in self.uses:
            found[use.mm, use.vpn].append(use)
        return found

    @cached_property
    def bursts(self) -> list[Burst]:
        """Every device burst that ended, in order of ending."""
        return device_bursts(self.rows, self.uses, self.owners)

    @cached_property
    def causality(self) -> Causality:
        """What happened before what, on CPUs and engines."""
        return Causality(self.rows, self.bursts)

    @cached_property
    def changes_of(self) -> dict[tuple[int, int], list[PteChange]]:
        """Changes of leaf PTEs by (mm, vpn), each in order."""
        found: dict[tuple[int, int], list[PteChange]] = defaultdict(list)
        for change in self.changes:
            found[change.mm, change.vpn].append(change)
        return found

    def word_at(self, mm: int, vpn: int, row: int) -> int:
        """PTE word of a page as it was just before a row; 0 where there was none."""
        changes = self.changes_of.get((mm, vpn), [])
        place = bisect_left(changes, row, key=lambda change: change.row)
        return changes[place - 1].new if place else 0

    @cached_property
    def pages(self) -> dict[tuple[int, int], list[Mapping]]:
        """Which pages each (mm, vpn) had."""
        return page_histories(self.rows)

    @cached_property
    def written_out(self) -> list[tuple[int, int]]:
        """(row, pfn) of each copy of a frame's content to the backing store, swap or file: the row names the source."""
        rows = self.rows
        index = rows.of(Row.COPY)
        copies = rows.take(index, "pfn", "b")
        return [(row, pfn) for row, pfn, source in copies if source >> PAGE_BITS == pfn]

    @cached_property
    def memory(self) -> Memory:
        """What each word of memory held."""
        writes = [(b.use, b.data) for b in self.bursts if b.write and b.use and b.use.code == 0]
        return Memory(self.rows, writes)
