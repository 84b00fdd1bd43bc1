"""One pass over the timeline that mirrors the MMU: its TLB, its walks, its uses in flight, its commands."""

from collections import defaultdict
from collections.abc import Callable

from hostmm.driver.pack import unpacker
from hostmm.machine.timeline import COLUMNS, CommandFlag, Notification, Row
from hostmm.policies import Policy
from secmmu.layouts import (
    PAGE_BITS,
    AccessArg,
    CommandKind,
    Event,
    FillArg,
    PteLayout,
)
from shootdown.history.dropins import DropIns
from shootdown.history.facts import NEVER, Callback, Command, Entry, Freed, Use, Walk
from shootdown.history.owners import Owners
from shootdown.history.rows import Rows

__all__ = ["Replay"]

_access = unpacker(AccessArg())
_fill = unpacker(FillArg())
_pte = unpacker(PteLayout())
_LEVEL_BITS = 9
_ANSWERS = 32
"""Answered walks whose fill may still come: more than the MMU has walks."""

_Values = tuple[int, ...]


class Replay:
    """Replays the records against a mirror of the MMU and notes what the checks ask for.

    Parameters
    ----------
    rows : Rows
    owners : Owners
    policy : Policy
        It says what a range start's result means.

    Attributes
    ----------
    commands, entries, uses, walks, callbacks : list
        Everything, in order of beginning. ``commands`` holds those that reached the port.
    freed : list of Freed
        One for each FREE row.
    into_free : list of Entry
        Entries filled with a frame that was free, or freed since their walk began and not mapped there again.
    in_bracket : list of (Entry, Callback)
        Entries filled between the return of a range start and the call of its range end.
    """

    def __init__(self, rows: Rows, owners: Owners, policy: Policy) -> None:
        self._owners = owners
        self._policy = policy
        self.commands: list[Command] = []
        self.entries: list[Entry] = []
        self.uses: list[Use] = []
        self.walks: list[Walk] = []
        self.callbacks: list[Callback] = []
        self.freed: list[Freed] = []
        self.into_free: list[Entry] = []
        self.in_bracket: list[tuple[Entry, Callback]] = []
        self._issued: list[Command] = []
        self._undrained: list[Command] = []
        self.stray: list[tuple[int, int]] = []
        """(cycle, tag) of answers to no command."""
        self._tlb: dict[int, Entry] = {}
        self._killed_now: list[Entry] = []
        self._accepted_now: list[Command] = []
        self._unbound: list[Use] = []
        self._cycle = -1
        self._filled: dict[tuple[int, int, int], list[Entry]] = defaultdict(list)
        self._open_walks: list[Walk] = []
        self._answers: list[Walk] = []
        self._numbered = False
        self._accepted: list[int] = []
        self._drop_ins = DropIns()
        self._open_uses: dict[tuple[int, int], list[Use]] = defaultdict(list)
        self._by_number: dict[int, Callback] = {}
        self._brackets: list[Callback] = []
        self._left: set[tuple[int, int]] = set()
        self._owned: set[int] = set()
        self._freed_at: dict[int, tuple[int, int]] = {}
        self._mapped: dict[tuple[int, int], tuple[int, int]] = {}
        self._run(rows)

    def _run(self, rows: Rows) -> None:
        handlers: dict[int, Callable[[_Values], None]] = {
            Row.ALLOC: self._alloc,
            Row.FREE: self._free,
            Row.PTE_SET: self._pte_set,
            Row.NOTIFY_BEGIN: self._notify_begin,
            Row.NOTIFY_END: self._notify_end,
            Row.SUBSCRIBE: self._subscribe,
            Row.INV_ISSUE: self._issue,
            Row.DROP_IN: self._drop_in,
            Event.DROPPED.value: self._dropped,
            Event.ACCEPTED.value: self._accept,
            Event.INVALIDATED.value: self._invalidated,
            Event.DRAINED.value: self._drained,
            Event.REFUSED.value: self._refused,
            Event.TIMED_OUT.value: self._timed_out,
            Event.WALKED.value: self._walked,
            Event.WALK_REFUSED.value: self._walk_refused,
            Event.WALK.value: self._walk,
            Event.WALK_KILLED.value: self._walk_killed,
            Event.FAULT.value: self._fault,
            Event.FILL.value: self._fill,
            Event.KILL.value: self._kill,
            Event.USE_BEGIN.value: self._use_begin,
            Event.USE_END.value: self._use_end,
        }
        names = [name for name in COLUMNS if name not in ("ns", "hw")]
        self._numbered = bool(len(rows.of(Event.WALKED.value, Event.WALK_REFUSED.value)))
        for values in rows.take(rows.of(*handlers), *names):
            if values[1] != self._cycle:
                self._new_cycle(values[1])
            handlers[values[2]](values)
        self._new_cycle(NEVER)

    def _new_cycle(self, cycle: int) -> None:
        for use in self._unbound:
            use.entry = self._translation(use)
        self._unbound.clear()
        self._accepted_now.clear()
        self._killed_now.clear()
        self._cycle = cycle

    # --- the host ------------------------------------------------------------------------------------

    def _alloc(self, values: _Values) -> None:
        self._owned.add(values[8])

    def _free(self, values: _Values) -> None:
        row, pfn = values[0], values[8]
        entries = [
            entry
            for entry in self._tlb.values()
            if entry.maps(pfn)
            and entry.hits_behind(row)
            and not self._owners.is_idle(entry.asid, row)
        ]
        uses = [use for use in self._all_open_uses() if use.pfn == pfn]
        self.freed.append(Freed(row, pfn, entries, uses))
        self._owned.discard(pfn)
        self._freed_at[pfn] = row, values[1]

    def _pte_set(self, values: _Values) -> None:
        if values[8] >= 0:
            self._mapped[values[6], values[7]] = (values[8], values[0])

    def _notify_begin(self, values: _Values) -> None:
        row, _, _, thread, path, span, mm, first, _, kind, last, number, subscriber = values
        callback = Callback(
            number=number,
            subscriber=subscriber,
            kind=Notification(kind),
            mm=mm,
            first=first,
            last=last,
            path=path,
            span=span,
            thread=thread,
            begin=row,
        )
        self.callbacks.append(callback)
        self._by_number[number] = callback
        if callback.kind is Notification.RANGE_END:
            ends = mm, subscriber, first, last
            for bracket in self._brackets:
                if (bracket.mm, bracket.subscriber, bracket.first, bracket.last) == ends:
                    self._brackets.remove(bracket)
                    break

    def _notify_end(self, values: _Values) -> None:
        callback = self._by_number[values[11]]
        callback.end, callback.result = values[0], values[10]
        callback.open_at_end = [
            use
            for use in self._all_open_uses()
            if callback.covers(use.mm, use.vpn) and self._concerns(callback, use.asid)
        ]
        left = (callback.mm, callback.subscriber) in self._left
        # One that is refused has begun nothing, and gets no end. Under EMM a result means something else.
        refused = bool(callback.result) and not self._policy.stops_at_first
        if callback.kind is Notification.RANGE_START and not left and not refused:
            self._brackets.append(callback)

    def _concerns(self, callback: Callback, asid: int) -> bool:
        return self._owners.looks_after(callback.mm, callback.subscriber, asid)

    def _subscribe(self, values: _Values) -> None:
        """Forget the brackets of a subscriber that leaves: nobody will tell it of their ends."""
        mm, registers, number = values[6], values[9], values[11]
        if not registers:
            self._left.add((mm, number))
            self._brackets = [b for b in self._brackets if (b.mm, b.subscriber) != (mm, number)]

    def _issue(self, values: _Values) -> None:
        row, cycle, _, thread, path, span, mm, first, _, tag, last, number, flags = values
        command = Command(
            tag=tag,
            kind=CommandKind.RANGE,
            asid=mm,
            mm=self._owners.mm(mm, row),
            first=first,
            last=last,
            path=path,
            span=span,
            thread=thread,
            callback=number,
            flags=CommandFlag(flags),
            issue=row,
            issue_cycle=cycle,
        )
        self.commands.append(command)
        self._issued.append(command)
        if number in self._by_number:
            self._by_number[number].commands.append(command)

    # --- commands ------------------------------------------------------------------------------------

    def _accept(self, values: _Values) -> None:
        row, cycle, arg = values[0], values[1], values[5]
        if not self._issued:
            return
        command = self._issued.pop(0)
        command.kind = CommandKind(arg & 0b111)
        command.accepted, command.accepted_cycle = row, cycle
        self._undrained.append(command)
        self._accepted_now.append(command)
        self._accepted.append(cycle)
        for entry in (*self._tlb.values(), *self._killed_now):
            if entry.asid == command.asid or command.kind is CommandKind.ALL:
                self._meet(command, entry)
        for walk in self._open_walks:
            self._doom_walk(command, walk)
        command.uses += [
            use for use in self._all_open_uses() if command.overlaps(use.asid, use.vpn, use.vpn)
        ]

    @staticmethod
    def _meet(command: Command, entry: Entry) -> None:
        if command.overlaps(entry.asid, entry.first, entry.last):
            command.entries.append(entry)
            entry.doom = entry.doom or command

    @staticmethod
    def _doom_walk(command: Command, walk: Walk) -> None:
        if walk.begin_cycle < command.accepted_cycle and command.overlaps(
            walk.asid, walk.vpn, walk.vpn
        ):
            walk.doom = walk.doom or command

    def _answered(self, values: _Values, *, done: bool) -> Command | None:
        cycle, tag = values[1], values[9]
        for command in self._undrained:
            if command.tag == tag and (done or command.invalidated == NEVER):
                if done:
                    self._undrained.remove(command)
                return command
        self.stray.append((cycle, tag))
        return None

    def _invalidated(self, values: _Values) -> None:
        command = self._answered(values, done=False)
        if command:
            command.invalidated, command.invalidated_cycle = values[0], values[1]

    def _drained(self, values: _Values) -> None:
        command = self._answered(values, done=True)
        if command:
            command.drained, command.drained_cycle = values[0], values[1]
            command.open_at_drained = [
                use for use in self._all_open_uses() if command.overlaps(use.asid, use.vpn, use.vpn)
            ]

    def _refused(self, values: _Values) -> None:
        command = self._answered(values, done=True)
        if command:
            command.refused = True

    def _timed_out(self, values: _Values) -> None:
        command = self._answered(values, done=True)
        if command:
            command.timed_out = values[0]

    # --- walks and entries ---------------------------------------------------------------------------

    def _walk(self, values: _Values) -> None:
        arg = _access(values[5])
        walk = Walk(
            asid=arg["asid"],
            mm=self._owners.mm(arg["asid"], values[0]),
            id=arg["id"],
            write=bool(arg["write"]),
            vpn=values[10],
            begin=values[0],
            begin_cycle=values[1],
        )
        self.walks.append(walk)
        self._open_walks.append(walk)

    def _walk_killed(self, values: _Values) -> None:
        self._end_walk_of(values, values[10], Event.WALK_KILLED)

    def _walk_refused(self, values: _Values) -> None:
        self._end_walk_of(values, values[10], Event.WALK_REFUSED)

    def _fault(self, values: _Values) -> None:
        """End the walk of an MMU that does not report its end; else the refusal has done so."""
        if not self._numbered:
            self._end_walk_of(values, values[10] >> PAGE_BITS, Event.FAULT)

    def _walked(self, values: _Values) -> None:
        """Note an answer: uses may come of it before it is filled, and though it never is."""
        walk = self._end_walk_of(values, values[10], Event.WALKED)
        if walk is None:
            return
        self._answers = [*self._answers[1 - _ANSWERS :], walk]
        pte = _pte(values[11])
        for frame in _frames(pte["ppn"], walk.vpn):
            answer = Entry(
                index=-1,
                asid=walk.asid,
                mm=walk.mm,
                first=walk.vpn,
                last=walk.vpn,
                frame=frame,
                writable=bool(pte["w"] and pte["d"]),
                begin=values[0],
                begin_cycle=values[1],
                walk=walk,
                end=values[0],
                end_cycle=values[1],
            )
            self._filled[walk.asid, 0, walk.vpn].append(answer)

    def _drop_in(self, values: _Values) -> None:
        """Remember as of which cycle software has the entry that it offers: the epoch counts commands."""
        epoch = values[11]
        later = epoch < len(self._accepted)
        latched = self._accepted[epoch] - 1 if later else values[1]
        self._drop_ins.offer(values[9], values[6], values[7], latched)

    def _dropped(self, values: _Values) -> None:
        self._drop_ins.answer(values[9], taken=bool(values[5]))

    def _end_walk_of(self, values: _Values, vpn: int, outcome: Event) -> Walk | None:
        arg = _access(values[5])
        who = arg["asid"], arg["id"], bool(arg["write"]), vpn
        for walk in self._open_walks:
            if (walk.asid, walk.id, walk.write, walk.vpn) == who:
                self._open_walks.remove(walk)
                walk.end, walk.outcome = values[0], outcome
                return walk
        return None

    def _filled_by(self, row: int, asid: int, first: int, last: int) -> Walk | None:
        """Return the walk behind a fill: the newest, as the report of an older one's fault may still be on its way."""
        for walk in reversed(self._answers):
            if walk.asid == asid and first <= walk.vpn <= last:
                self._answers.remove(walk)
                return walk
        for walk in () if self._numbered else reversed(self._open_walks):
            if walk.asid == asid and first <= walk.vpn <= last:
                self._open_walks.remove(walk)
                walk.end, walk.outcome = row, Event.FILL
                return walk
        return None

    def _fill(self, values: _Values) -> None:
        row, cycle, arg, pte = values[0], values[1], _fill(values[5]), _pte(values[11])
        below = arg["level"] * _LEVEL_BITS
        first = values[10] >> below << below
        last = first + (1 << below) - 1
        entry = Entry(
            index=arg["entry"],
            asid=arg["asid"],
            mm=self._owners.mm(arg["asid"], row),
            first=first,
            last=last,
            frame=pte["ppn"],
            writable=bool(pte["w"] and pte["d"]),
            begin=row,
            begin_cycle=cycle,
            walk=self._filled_by(row, arg["asid"], first, last),
        )
        replaced = self._tlb.get(entry.index)
        if replaced:
            replaced.end, replaced.end_cycle = row, cycle
        if entry.walk is None:
            entry.latched = self._drop_ins.fill(entry.asid, first)
        self._tlb[entry.index] = entry
        self.entries.append(entry)
        self._filled[entry.asid, arg["level"], first].append(entry)
        for command in self._accepted_now:
            self._meet(command, entry)
        self._judge_fill(entry)

    def _judge_fill(self, entry: Entry) -> None:
        freed, freed_cycle = self._freed_at.get(entry.frame, (-1, -1))
        mapped = self._mapped.get((entry.mm, entry.first), (-1, -1))
        again = mapped[0] == entry.frame and mapped[1] > freed
        late = freed > entry.walk.begin if entry.walk else freed_cycle > entry.obtained_cycle
        if entry.frame not in self._owned or (late and not again):
            self.into_free.append(entry)
        for bracket in self._brackets:
            if (
                bracket.mm == entry.mm
                and self._concerns(bracket, entry.asid)
                and entry.first <= bracket.last
                and entry.last >= bracket.first
            ):
                self.in_bracket.append((entry, bracket))
                break

    def _kill(self, values: _Values) -> None:
        row, cycle, base, bitmap = values[0], values[1], values[5], values[11]
        while bitmap:
            low = bitmap & -bitmap
            bitmap ^= low
            entry = self._tlb.pop(base + low.bit_length() - 1, None)
            if entry:
                entry.end, entry.end_cycle, entry.killed = row, cycle, True
                self._killed_now.append(entry)

    # --- uses ----------------------------------------------------------------------------------------

    def _all_open_uses(self) -> list[Use]:
        return [use for uses in self._open_uses.values() for use in uses]

    def _use_begin(self, values: _Values) -> None:
        arg = _access(values[5])
        use = Use(
            asid=arg["asid"],
            mm=self._owners.mm(arg["asid"], values[0]),
            id=arg["id"],
            write=bool(arg["write"]),
            beats=arg["beats"],
            va=values[10],
            pa=values[11],
            begin=values[0],
            begin_cycle=values[1],
        )
        use.from_free = use.pfn not in self._owned
        self.uses.append(use)
        self._open_uses[arg["write"], use.id].append(use)
        # A fill of this very cycle may answer it and stand behind it in the record.
        self._unbound.append(use)
        for command in self._accepted_now:
            if command.overlaps(use.asid, use.vpn, use.vpn):
                command.uses.append(use)

    def _translation(self, use: Use) -> Entry | None:
        """Return the newest entry that ever said what the use did."""
        newest = None
        for level in range(3):
            below = level * _LEVEL_BITS
            for entry in reversed(
                self._filled.get((use.asid, level, use.vpn >> below << below), ())
            ):
                if entry.translates(use.vpn, use.pfn) and (entry.writable or not use.write):
                    if newest is None or entry.begin > newest.begin:
                        newest = entry
                    break
        return newest

    def _use_end(self, values: _Values) -> None:
        arg = _access(values[5])
        queue = self._open_uses[arg["write"], arg["id"]]
        if queue:
            use = queue.pop(0)
            use.end, use.end_cycle, use.code = values[0], values[1], arg["code"]


def _frames(ppn: int, vpn: int) -> set[int]:
    """Return the frames that a leaf may give a page: the record does not say how large the leaf is."""
    found = {ppn}
    if ppn & 0xF == 0b1000:  # Svnapot
        found.add(ppn & ~0xF | vpn & 0xF)
    for level in (1, 2):
        below = (1 << level * _LEVEL_BITS) - 1
        if not ppn & below:
            found.add(ppn | vpn & below)
    return found
