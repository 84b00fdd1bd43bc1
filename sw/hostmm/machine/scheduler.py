"""A deterministic discrete-event scheduler over generator threads, in step with the emulated clock.

A thread is a generator. What it yields:

=================  =======================================================================================
``"step name"``    spend the step's cost (cost table); a :class:`Gate` on that name may stop the thread there
int                spend that many ns
``Acquire(lock)``  take a lock; give it back with :meth:`Scheduler.release`
``Wait(signal)``   sleep until the signal fires; returns its value
``Fetch(a, n)``    read n words of emulated memory; returns them as a list
=================  =======================================================================================

**Two clocks.** Host memory operations take effect in the emulated cycle of their step; commands and descriptors
arrive one link latency later, and hardware events reach the host one link latency after their cycle. A step at
time *t* may therefore run as soon as every event up to *t - link* is known (conservative look-ahead), so the
hardware is asked once for many steps, and the result does not depend on how steps fall into batches.
"""

import heapq
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hostmm.driver.link import Link, Session
from hostmm.errors import DeadlockError
from hostmm.machine.costs import CostTable
from hostmm.machine.lockdep import Atomic, Context, LockOrder
from hostmm.machine.locks import Acquire, Lock, Signal, Wait
from hostmm.machine.timeline import Row, Timeline
from secmmu.layouts import Event

__all__ = ["Fetch", "Gate", "Scheduler", "Steps", "Thread"]

Steps = Generator[Any, Any, Any]
"""The type of a thread's generator and of every function that it calls with ``yield from``."""

_WATCHDOG_NS = 50_000_000
_BATCH_WORDS = 1500
_JITTER = 0.2
_PREEMPTION_ONE_IN = 400
_OFF_CPU_NS = 40_000
_SLEEPING_STEPS = frozenset(("alloc_page", "io_wait", "io_read", "page_mkwrite"))
"""Steps of which the kernel says that they may sleep."""


@dataclass(frozen=True)
class Fetch:
    """Yielded by a thread: read ``words`` words at ``address`` (bytes)."""

    address: int
    words: int


@dataclass(eq=False)
class Thread:
    """One host thread, on a CPU of its own.

    Attributes
    ----------
    frames : list of (int, int)
        Stack of (path number, span number) that it is in.
    waiting : object or None
        What it waits for, for the deadlock message.
    context : Context
        The locks that it holds, and whether it may sleep.
    """

    name: str
    number: int
    steps: Steps
    done: Signal
    frames: list[tuple[int, int]] = field(default_factory=list)
    waiting: object = None
    context: Context = field(default_factory=Context)


@dataclass(eq=False)
class Gate:
    """Stops one thread at a named step of a path until it is opened; how scenarios place a race.

    Parameters
    ----------
    thread, path, step : str
        Where: the thread's name, the innermost mm path, the yielded step name.
    reached : Signal
        Fires when the thread arrives.
    opened : Signal
        The thread goes on when it fires.
    passes : int
        How often the thread may pass before it stops; counts down.
    """

    thread: str
    path: str
    step: str
    reached: Signal
    opened: Signal
    passes: int = 0


class Scheduler:
    """Runs threads in time order and keeps the link in step.

    Parameters
    ----------
    timeline : Timeline
    costs : CostTable
    link : Link
    seed : int
        Seed of cost jitter (within 20 %), of short interruptions (one step in 400) and of ties.
    preempt : tuple of int
        Numbers of steps, from 1, at which the thread loses its CPU for longer than any mm path takes.

    Attributes
    ----------
    steps : int
        Steps numbered so far.
    numbered : bool
        Whether steps are numbered now; a scenario may leave out its beginning.
    """

    def __init__(
        self,
        *,
        timeline: Timeline,
        costs: CostTable,
        link: Link,
        seed: int,
        preempt: tuple[int, ...] = (),
    ) -> None:
        self.timeline = timeline
        self.costs = costs
        self.link = link
        self.now = 0
        self.current: Thread | None = None
        self.gates: list[Gate] = []
        self._handlers: dict[int, Callable[[Sequence[int]], None]] = {}
        self._handled: set[Event] = set()
        self.stops: set[Event] = set()
        """Kinds of event that end an advance early: whatever somebody waits for right now."""
        self.busy: Callable[[], bool] = lambda: False
        """Whether the hardware may still send an event that somebody handles (set by the driver)."""
        self.steps = 0
        self.numbered = True
        self._preempt = frozenset(preempt)
        self._rng = random.Random(seed)
        self._link_ns = costs.ns("link")
        self._queue: list[tuple[int, int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._spans = 0
        self._live: list[Thread] = []
        self._order = LockOrder()
        self._fetch: tuple[Thread, Fetch] | None = None

    # --- for threads ---------------------------------------------------------------------------------

    def spawn(self, name: str, steps: Steps, *, delay_ns: int = 0) -> Thread:
        """Start a thread; ``thread.done`` fires when it returns."""
        thread = Thread(name, self.timeline.thread(name), steps, Signal(f"end of {name}"))
        self._live.append(thread)
        self._later(self.now + delay_ns, lambda: self._resume(thread, None))
        return thread

    def log(self, kind: Row, **fields: int) -> None:
        """Append a timeline row at this moment, for the running thread and its path."""
        thread, now = self.current, self.now
        number = path = span = 0
        if thread is not None:
            number = thread.number
            if thread.frames:
                path, span = thread.frames[-1]
        cycle = -(-now // self.link.cycle_ns)
        self.timeline.append(
            kind, cycle=cycle, ns=now, thread=number, path=path, span=span, **fields
        )

    @contextmanager
    def path(self, name: str) -> Iterator[list[int]]:
        """Mark an instance of an mm path; put its result into the yielded list to record it."""
        thread = self.current
        assert thread is not None, "a path runs in a thread"
        self._spans += 1
        thread.frames.append((self.timeline.path(name), self._spans))
        self.log(Row.PATH_BEGIN)
        result: list[int] = []
        try:
            yield result
        finally:
            self.log(Row.PATH_END, a=int(result[-1]) if result else 0)
            thread.frames.pop()

    def trylock(self, lock: Lock) -> bool:
        """Take a lock for the running thread, if nobody holds or awaits it; returns whether. It never sleeps."""
        thread = self.current
        assert thread is not None, "a lock is taken by a thread"
        if lock.queue or not lock.admits(shared=False):
            return False
        self._take(lock, thread, shared=False)
        self.log(Row.LOCK, tag=lock.lock_class, a=lock.number)
        return True

    def release(self, lock: Lock) -> None:
        """Give back a lock that the running thread holds; the first waiters in the queue get it."""
        thread = self.current
        assert thread is not None, "a lock is released by a thread"
        shared = lock.writer is not thread
        if shared:
            since = lock.readers.pop(thread)
        else:
            since, lock.writer = lock.since_ns, None
        thread.context.held.remove(lock)
        row = {"mm": int(shared), "tag": lock.lock_class, "a": lock.number}
        self.log(Row.UNLOCK, **row, b=self.now - since)
        while lock.queue and lock.admits(lock.queue[0][1]):
            waiter, shared, since = lock.queue.popleft()
            self._take(lock, waiter, shared)
            self._later(self.now, partial(self._granted, lock, waiter, since))

    @contextmanager
    def rcu_read(self) -> Iterator[None]:
        """Be in an RCU read-side section, which must not sleep (the kernel is not preemptible there)."""
        context = self._context()
        context.rcu += 1
        try:
            yield
        finally:
            context.rcu -= 1

    @contextmanager
    def srcu_read(self) -> Iterator[None]:
        """Be in an SRCU read-side section, which may sleep."""
        context = self._context()
        context.srcu += 1
        try:
            yield
        finally:
            context.srcu -= 1

    @contextmanager
    def preemption_disabled(self) -> Iterator[None]:
        """Be between preempt_disable() and preempt_enable()."""
        context = self._context()
        context.preemption += 1
        try:
            yield
        finally:
            context.preemption -= 1

    @contextmanager
    def non_blocking(self) -> Iterator[None]:
        """Be between non_block_start() and non_block_end(): whatever is held, sleeping is forbidden."""
        context = self._context()
        context.non_blocking += 1
        try:
            yield
        finally:
            context.non_blocking -= 1

    def might_sleep(self) -> None:
        """Say that the running thread may sleep here; where it must not, that is recorded (I12)."""
        context = self._context()
        reasons = context.atomic()
        if reasons:
            lock = context.spinlock if Atomic.SPINLOCK in reasons else None
            self.log(
                Row.SLEEP_IN_ATOMIC,
                tag=reasons,
                a=lock.number if lock else 0,
                b=lock.lock_class if lock else 0,
            )

    def _context(self) -> Context:
        assert self.current is not None, "a thread has a context"
        return self.current.context

    def fire(self, signal: Signal, value: int = 0) -> None:
        """Fire a signal: its waiters run on now."""
        signal.fired, signal.value = True, value
        waiters, signal.waiters = signal.waiters, []
        for thread in waiters:
            self._later(self.now, partial(self._resume, thread, value))

    def post(self, operation: Callable[[int], None]) -> None:
        """Do ``operation(ns)`` on the link one link latency from now (a posted register write).

        What is posted at one moment arrives in that order.
        """
        thread = self.current
        at = self.now + self._link_ns
        self._in_order(at, partial(self._as, thread, partial(operation, at)))

    def handle(self, kind: Event, handler: Callable[[Sequence[int]], None]) -> None:
        """Call ``handler(record)``, four words, whenever an event of ``kind`` reaches the host."""
        self._handlers[kind.value] = handler
        self._handled.add(kind)

    # --- the loop ------------------------------------------------------------------------------------

    def run(self) -> Session:
        """Run until every thread has returned and the hardware is quiet.

        Raises
        ------
        DeadlockError
            Every thread waits and no event can come, or none came for 50 ms of emulated time.
        """
        queue, link = self._queue, self.link
        while queue or self._live or self.busy():
            if self._fetch:
                yield from self._answer_fetch()
            elif queue and self._known(queue[0][0]):
                at, _, _, action = heapq.heappop(queue)
                if at > self.now:
                    self.now = at
                action()
                if link.words > _BATCH_WORDS:
                    yield from self._exchange(None, ())
            elif self.busy():
                yield from self._advance()
            else:
                waiting = ", ".join(f"{t.name} ({t.waiting})" for t in self._live)
                raise DeadlockError(
                    f"nothing can happen any more at {self.now} ns: waiting: {waiting}"
                )
        yield from self._exchange(self.now, ())

    def _known(self, at: int) -> bool:
        return at - self._link_ns <= self.link.synced_cycle * self.link.cycle_ns or not self.busy()

    def _advance(self) -> Session:
        before = self.link.synced_cycle
        horizon = self._queue[0][0] - self._link_ns if self._queue else None
        limit = max(self.now, before * self.link.cycle_ns) + _WATCHDOG_NS
        until = limit if horizon is None else min(limit, horizon)
        # With nothing to do meanwhile, any event that somebody handles may be the last one.
        stops = self.stops if self._queue else self._handled
        yield from self._exchange(until, stops)
        if self.link.synced_cycle * self.link.cycle_ns >= limit and not self._queue:
            waiting = (
                ", ".join(f"{t.name} ({t.waiting})" for t in self._live) or "the end of the run"
            )
            raise DeadlockError(
                f"the hardware sent nothing from cycle {before} to {self.link.synced_cycle}: waiting: {waiting}"
            )

    def _exchange(self, until_ns: int | None, stop: Iterable[Event]) -> Session:
        records = yield self.link.batch(until_ns, stop)
        self.link.answered(records)
        self._records = records
        if len(records) == 1:
            return  # the ADVANCED that closed the batch
        self.timeline.append_records(records)
        for record in records.tolist():
            handler = self._handlers.get(record[0] & 0xFF)
            if handler is not None:
                at = record[1] * self.link.cycle_ns + self._link_ns
                self._in_order(at, partial(self._as, None, partial(handler, record)))

    def _answer_fetch(self) -> Session:
        assert self._fetch is not None
        thread, fetch = self._fetch
        self._fetch = None
        self.link.read(self.now, fetch.address, fetch.words)
        yield from self._exchange(None, ())
        rows = [row for row in self._records.tolist() if row[0] & 0xFF == Event.READ_DATA.value]
        words = [word for row in rows for word in row[2:4]][: fetch.words]
        self._later(self.now, lambda: self._resume(thread, words))

    def _later(self, at: int, action: Callable[[], None]) -> None:
        """Do something at a time; the seed decides between threads that are due at the same one."""
        self._sequence += 1
        tie = 1 + self._rng.getrandbits(16)
        heapq.heappush(self._queue, (at, tie, self._sequence, action))

    def _in_order(self, at: int, action: Callable[[], None]) -> None:
        """Do something at a time, before threads that are due then, in the order of these calls."""
        self._sequence += 1
        heapq.heappush(self._queue, (at, 0, self._sequence, action))

    def _as(self, thread: Thread | None, action: Callable[[], None]) -> None:
        before, self.current = self.current, thread
        action()
        self.current = before

    def _resume(self, thread: Thread, value: object) -> None:
        self.current = thread
        thread.waiting = None
        try:
            wanted = thread.steps.send(value)
        except StopIteration:
            self._live.remove(thread)
            self.fire(thread.done)
        else:
            self._serve(thread, wanted)
        self.current = None

    def _serve(self, thread: Thread, wanted: object) -> None:
        match wanted:
            case str():
                self._step(thread, wanted)
            case int():
                self._spend(thread, wanted)
            case Acquire(lock, shared, ordered):
                self._check(thread, lock, ordered)
                self._acquire(thread, lock, shared)
            case Wait(signal, sleeps):
                if sleeps:
                    self.might_sleep()
                if signal.fired:
                    self._later(self.now, lambda: self._resume(thread, signal.value))
                else:
                    thread.waiting = signal.name
                    signal.waiters.append(thread)
            case Fetch():
                self._fetch = (thread, wanted)
            case _:
                raise TypeError(
                    f"a thread must yield a step, a time, Acquire, Wait or Fetch, not {wanted!r}"
                )

    def _step(self, thread: Thread, name: str) -> None:
        if name in _SLEEPING_STEPS:
            self.might_sleep()
        gate = self._gate(thread, name) if self.gates else None
        if gate is not None:
            self.fire(gate.reached)
            self._serve(thread, Wait(gate.opened))
            return
        self._spend(thread, self.costs.ns(name))

    def _gate(self, thread: Thread, name: str) -> Gate | None:
        """Return the gate that stops the thread here."""
        path = self.timeline.paths[thread.frames[-1][0]] if thread.frames else "-"
        for gate in self.gates:
            place = (gate.thread, gate.path, gate.step)
            if place == (thread.name, path, name) and not gate.reached.fired:
                if not gate.passes:
                    return gate
                gate.passes -= 1
        return None

    def _spend(self, thread: Thread, ns: int) -> None:
        draw = self._rng.random
        ns = round(ns * (1 + _JITTER * (2 * draw() - 1)))
        if draw() * _PREEMPTION_ONE_IN < 1:
            ns += self.costs.ns("preemption")
        if self.numbered:
            self.steps += 1
            if self.steps in self._preempt:
                ns += _OFF_CPU_NS
        self._later(self.now + ns, partial(self._resume, thread, None))

    def _check(self, thread: Thread, lock: Lock, ordered: bool) -> None:
        """Record a mutex that is wanted where sleeping is forbidden, and an order of locks that may deadlock."""
        if lock.sleeps:
            self.might_sleep()
        inverted = self._order.note(thread.context.held, lock) if ordered else None
        if inverted is not None:
            self.log(Row.LOCK_INVERSION, tag=lock.lock_class, a=lock.number, b=inverted.number)

    def _acquire(self, thread: Thread, lock: Lock, shared: bool) -> None:
        if not lock.queue and lock.admits(shared):
            self._take(lock, thread, shared)
            self._granted(lock, thread, self.now)
        else:
            thread.waiting = lock.name
            lock.queue.append((thread, shared, self.now))

    def _take(self, lock: Lock, thread: Thread, shared: bool) -> None:
        thread.context.held.append(lock)
        if shared:
            lock.readers[thread] = self.now
        else:
            lock.writer, lock.since_ns = thread, self.now

    def _granted(self, lock: Lock, thread: Thread, since: int) -> None:
        self.current = thread
        row = {"mm": int(lock.writer is not thread), "tag": lock.lock_class, "a": lock.number}
        self.log(Row.LOCK, **row, b=self.now - since)
        self._spend(thread, self.costs.ns("lock"))
        self.current = None
