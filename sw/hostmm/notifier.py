"""The notifier chain of one address space: at a path's point, ask the policy, then call every subscriber.

**The protocol.** A subscriber is any object with methods of :class:`Subscriber`; each method is optional, and what
it does not have is not called (``struct mmu_notifier_ops`` with NULL members). A method is steps of the thread that
notifies, so it runs in that thread's context: under the policies of 2008 inside the page-table lock and the RCU read
lock, later partly outside. One that may sleep says so with :meth:`Scheduler.might_sleep`, which records a violation
of I12 where sleeping is not allowed; spinning (:class:`Wait` without ``sleeps``) is always allowed.

================================  ==========  =====================================================================
method                            may sleep   called
================================  ==========  =====================================================================
``invalidate_page``               3.7 only    one page was unmapped or downgraded; gone since 4.13
``clear_flush_young``             never       reclaim asks, and wants the accessed bit gone
``test_young``                    never       as before, but nothing changes (3.0 and later)
``invalidate_range_start``        3.7 on      before a range changes; pages may be freed until the end
``try_invalidate_range_start``    never       in its place, where the caller must not block: returns 1 for "again"
``invalidate_range_end``          3.7 on      behind the change, once for each start that did not fail
``invalidate_range``              never       right behind a CPU TLB flush, inside the page-table lock (3.19 on);
                                              until 6.5 also just before ``invalidate_range_end``
``change_pte``                    never       just before a PTE is replaced by ``pte`` (3.7 to 6.5 where a page is)
``release``                       3.7 on      the address space goes away; may run beside any other method; until
                                              #v11 it was called by no reader of the chain, and could sleep
================================  ==========  =====================================================================

A subscriber without ``try_invalidate_range_start`` never sleeps in ``invalidate_range_start``, which is then called
in its place. One with it has no ``invalidate_range_end`` (a failed start gets no end, I12), unless it is made of
interval notifiers (attribute ``is_interval``), which undo what they have begun before they refuse.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Lock, Signal, Wait
from hostmm.machine.scheduler import Steps
from hostmm.machine.timeline import INTERVAL, Notification, Row
from hostmm.mm.frames import PAGE_BYTES
from hostmm.policies import Chain, Point

if TYPE_CHECKING:
    from hostmm.machine.machine import Machine
    from hostmm.mm.space import MmStruct

__all__ = ["NotifierChain", "Subscriber"]


_METHODS = {
    Notification.INVALIDATE_PAGE: "invalidate_page",
    Notification.CLEAR_FLUSH_YOUNG: "clear_flush_young",
    Notification.RANGE_START: "invalidate_range_start",
    Notification.RANGE_END: "invalidate_range_end",
    Notification.RELEASE: "release",
    Notification.INVALIDATE_RANGE: "invalidate_range",
    Notification.CHANGE_PTE: "change_pte",
    Notification.TEST_YOUNG: "test_young",
}
_ONE_PAGE = (
    Notification.CLEAR_FLUSH_YOUNG,
    Notification.TEST_YOUNG,
    Notification.CHANGE_PTE,
)
_NEVER_SLEEP = (
    Notification.CLEAR_FLUSH_YOUNG,
    Notification.TEST_YOUNG,
    Notification.INVALIDATE_RANGE,
    Notification.CHANGE_PTE,
)
"""Kinds of which the caller never promises a context in which sleeping is allowed."""


class Subscriber(Protocol):
    """What a driver may register: all of ``struct mmu_notifier_ops``, in steps; the module says when each is called.

    ``callback`` is the number of this delivery, which the rows of the commands it causes carry. Pages are vpns, and
    ranges inclusive; ``invalidate_page`` alone has a byte address, low bits and all (review note S15). What a method
    returns counts only where it is said.
    """

    def invalidate_page(self, address: int, *, callback: int) -> Steps:
        """One page, that of ``address``, is (being) unmapped or downgraded."""
        ...

    def clear_flush_young(self, vpn: int, *, callback: int) -> Steps:
        """Return 1 if the device used the page since the last call, else 0; forget that it did."""
        ...

    def test_young(self, vpn: int, *, callback: int) -> Steps:
        """Return 1 if the device used the page since the last ``clear_flush_young``, else 0; change nothing."""
        ...

    def invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """Pages ``first`` to ``last`` (inclusive) are about to change."""
        ...

    def try_invalidate_range_start(self, first: int, last: int, *, callback: int) -> Steps:
        """As ``invalidate_range_start`` without sleeping; return 1, having done nothing, if that cannot be."""
        ...

    def invalidate_range_end(self, first: int, last: int, *, callback: int) -> Steps:
        """They have changed."""
        ...

    def invalidate_range(self, first: int, last: int, *, callback: int) -> Steps:
        """Drop translations of the pages that were cached from the CPU's tables, as a CPU's TLB does."""
        ...

    def change_pte(self, vpn: int, pte: int, *, callback: int) -> Steps:
        """Prepare for the PTE of the page to become the word ``pte``: another frame, or fewer rights."""
        ...

    def release(self, *, callback: int) -> Steps:
        """Stop using the address space, for good: it goes away."""
        ...


@dataclass(eq=False)
class _Entry:
    """A registered subscriber: ``number`` is its place in the order of registration of the mm."""

    subscriber: object
    number: int
    released: bool = False


class NotifierChain:
    """Subscribers of one mm, in order of registration; every one gets every event (I20)."""

    def __init__(self, machine: "Machine", mm: "MmStruct") -> None:
        self._machine = machine
        self._mm = mm
        self._entries: list[_Entry] = []
        self._removed: list[_Entry] = []
        """Those off the chain whose unregistration has not begun, or has not got that far."""
        self._numbers = 0
        self._walks: list[Signal] = []

    def register(self, subscriber: object) -> None:
        """Add a subscriber at once (the tail of ``mmu_notifier_register``).

        Raises
        ------
        HostError
            It has none of the protocol's methods.
        """
        kinds = sum(1 << kind for kind, name in _METHODS.items() if hasattr(subscriber, name))
        if not kinds:
            raise HostError(f"a subscriber must have a callback; {subscriber!r} has none")
        if getattr(subscriber, "is_interval", False):
            kinds |= INTERVAL
        self._numbers += 1
        self._entries.append(_Entry(subscriber, self._numbers))
        row = {"mm": self._mm.number, "tag": 1, "a": kinds, "b": self._numbers}
        self._machine.sched.log(Row.SUBSCRIBE, **row, c=getattr(subscriber, "handle", 0))

    def subscribe(self, subscriber: object) -> Steps:
        """Register as the policy's kernel does (``mmu_notifier_register``): where it must, under every lock.

        With mmap_sem and the rmap locks held nobody is inside a bracket (I14).
        """
        locks: list[Lock] = []
        if self._machine.policy.takes_all_locks:
            yield Acquire(self._mm.mmap_sem)
            # Which others there are is known when no vma can come or go.
            locks = [self._mm.mmap_sem, *self._rmap_locks()]
        keys: set[str] = set()
        for lock in locks[1:]:
            yield Acquire(lock, ordered=lock.key not in keys)
            keys.add(lock.key)
        self.register(subscriber)
        for lock in reversed(locks):
            self._machine.sched.release(lock)

    def _rmap_locks(self) -> list[Lock]:
        """Locks of the reverse maps that know the mm, in the order of ``mm_take_all_locks``."""
        files = [vma.file.i_mmap_lock for vma in self._mm.vmas if vma.file is not None]
        anon = [vma.anon_vma.lock for vma in self._mm.vmas if vma.anon_vma is not None]
        return [*dict.fromkeys(files), *dict.fromkeys(anon)]

    def unregister(self, subscriber: object) -> Steps:
        """Remove a subscriber; when it returns, none of its methods runs or will run (I15).

        ``release`` is called first, unless the end of the address space has done so, and perhaps taken it off the chain:
        until #v10 by the driver, which also has to wait for the readers of the chain itself. The caller may sleep.

        Raises
        ------
        HostError
            It is not registered.
        """
        known = (*self._entries, *self._removed)
        entry = next((e for e in known if e.subscriber is subscriber), None)
        if entry is None:
            raise HostError("a subscriber must be registered before it can be unregistered")
        if self._machine.policy.chain is Chain.LIST:
            raise HostError(f"policy {self._machine.policy.name} has no way to unregister")
        yield from self._release(entry)
        if entry in self._entries:
            self._remove(entry)
        if entry in self._removed:
            self._removed.remove(entry)
        yield from self._synchronize()
        self._machine.sched.log(Row.UNREGISTERED, mm=self._mm.number, b=entry.number)

    # --- events ------------------------------------------------------------------------------------------

    def at(
        self,
        path: str,
        point: Point,
        first: int,
        last: int | None = None,
        *,
        pte: int = 0,
        low: int = 0,
    ) -> Steps:
        """Call whatever the policy wants at this point of ``path``; returns the callbacks' results OR-ed.

        ``pte`` is the word that is about to be set, at ``REPLACING``; ``low`` what the path does not mask off an
        address.
        """
        call = self._machine.policy.call(path, point)
        if call is None:
            return 0
        last = first if last is None else last
        if call is Notification.CHANGE_PTE:
            return (yield from self._deliver(call, first, last, pte))
        if call is not Notification.INVALIDATE_PAGE:
            return (yield from self._deliver(call, first, last))
        for vpn in range(first, last + 1):
            yield from self.invalidate_page(vpn, low)
        return 0

    def invalidate_page(self, vpn: int, low: int = 0) -> Steps:
        """Tell every subscriber that a page is unmapped, whatever the policy (``mmu_notifier_invalidate_page``)."""
        yield from self._deliver(Notification.INVALIDATE_PAGE, vpn, vpn, low)

    def invalidate_range(self, first: int, last: int) -> Steps:
        """Tell every subscriber that the CPUs' TLBs were flushed (``arch_invalidate_secondary_tlbs``)."""
        yield from self._deliver(Notification.INVALIDATE_RANGE, first, last)

    def test_young(self, vpn: int) -> Steps:
        """Whether a subscriber's device used the page lately (``mmu_notifier_test_young``)."""
        return (yield from self._deliver(Notification.TEST_YOUNG, vpn, vpn))

    def invalidate_range_start_nonblock(self, first: int, last: int) -> Steps:
        """Open a bracket without sleeping; returns whether it is open (I13: nobody misses an end if it is not)."""
        started, failed = [], False
        with self._walk(), self._machine.sched.non_blocking():
            for entry in list(self._entries):
                name = "try_invalidate_range_start"
                trying = hasattr(entry.subscriber, name)
                method = name if trying else _METHODS[Notification.RANGE_START]
                again = yield from self._call(
                    entry, Notification.RANGE_START, first, last, method=method
                )
                if trying and again:
                    failed = True
                else:
                    started.append(entry)
            for entry in started if failed else ():
                yield from self._call(entry, Notification.RANGE_END, first, last)
        return not failed

    def invalidate_range_end(self, first: int, last: int) -> Steps:
        """Close a bracket that :meth:`invalidate_range_start_nonblock` has opened."""
        yield from self._deliver(Notification.RANGE_END, first, last)

    def release(self) -> Steps:
        """Tell every subscriber that the mm goes away (``mmu_notifier_release``).

        Each leaves the chain; from 2.6.27 on walks in progress are then waited for.
        """
        policy = self._machine.policy
        for entry in list(self._entries):
            if policy.unhashes_before_release:
                self._remove(entry)
            yield from self._release(entry)
        for entry in list(self._entries):
            self._remove(entry)
        if policy.waits_for_release:
            yield from self._synchronize()

    # --- the walk ----------------------------------------------------------------------------------------

    @contextmanager
    def _walk(self) -> Iterator[None]:
        """Be a reader of the chain."""
        done, sched = Signal("the end of a walk of the notifier chain"), self._machine.sched
        sections: dict[Chain, Callable[[], AbstractContextManager[None]]] = {
            Chain.RCU: sched.rcu_read,
            Chain.SRCU: sched.srcu_read,
            Chain.LIST: nullcontext,
        }
        self._walks.append(done)
        try:
            with sections[self._machine.policy.chain]():
                yield
        finally:
            self._walks.remove(done)
            sched.fire(done)

    def _synchronize(self) -> Steps:
        """Wait until every walk that has begun is over (``synchronize_rcu``, ``synchronize_srcu``)."""
        for done in list(self._walks):
            yield Wait(done, sleeps=True)

    def _remove(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._removed.append(entry)
        self._machine.sched.log(Row.SUBSCRIBE, mm=self._mm.number, tag=0, b=entry.number)

    def _release(self, entry: _Entry) -> Steps:
        reads = self._machine.policy.waits_for_release
        with self._walk() if reads else nullcontext():
            if not entry.released:
                entry.released = True
                yield from self._call(entry, Notification.RELEASE, 0, (1 << 26) - 1)

    def _deliver(self, call: Notification, first: int, last: int, *arguments: int) -> Steps:
        rights = self._mm.tables.rights
        # What changes while the callback runs is another callback's to take back.
        lost = rights.lost(first, last) if self._covers(call) else []
        result, policy = 0, self._machine.policy
        with self._walk():
            for entry in list(self._entries):
                if call is Notification.RANGE_END and policy.end_invalidates:
                    yield from self._call(entry, Notification.INVALIDATE_RANGE, first, last)
                answer = yield from self._call(entry, call, first, last, *arguments)
                result |= answer
                if answer and policy.stops_at_first:
                    break
        rights.revoke(lost)
        return result

    def _covers(self, call: Notification) -> bool:
        """Whether no older translation is left behind a callback.

        For a device that follows the CPUs' TLB flushes, range end is early where it is no flush itself.
        """
        follows = any(hasattr(entry.subscriber, "invalidate_range") for entry in self._entries)
        if call is Notification.RANGE_END:
            return not (follows and self._machine.policy.flush_invalidates)
        return call is Notification.INVALIDATE_PAGE or (
            call is Notification.INVALIDATE_RANGE and follows
        )

    def _call(
        self,
        entry: _Entry,
        call: Notification,
        first: int,
        last: int,
        *arguments: int,
        method: str | None = None,
    ) -> Steps:
        """One callback to one subscriber, if it has a method for it; returns its result, 0 for none."""
        callback = getattr(entry.subscriber, method or _METHODS[call], None)
        if callback is None:
            return 0
        number = self._machine.next_callback()
        row = {"mm": self._mm.number, "vpn": first, "tag": call, "c": entry.number}
        self._machine.sched.log(Row.NOTIFY_BEGIN, **row, a=last, b=number)
        yield "notifier_call"
        if call is Notification.RELEASE:
            pages: tuple[int, ...] = ()
        elif call is Notification.INVALIDATE_PAGE:
            pages, arguments = (first * PAGE_BYTES + arguments[0],), ()
        else:
            pages = (first,) if call in _ONE_PAGE else (first, last)
        atomic = call in _NEVER_SLEEP
        with self._machine.sched.non_blocking() if atomic else nullcontext():
            answer = (yield from callback(*pages, *arguments, callback=number)) or 0
        self._machine.sched.log(Row.NOTIFY_END, **row, a=answer, b=number)
        return answer
