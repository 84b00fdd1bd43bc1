"""Device bursts: what was asked, what came back, and the use on the memory side that served it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hostmm.driver.pack import unpacker
from hostmm.machine.timeline import Row
from secmmu.layouts import PAGE_BITS, AccessArg, Event, LoadArg, Response
from shootdown.history.facts import NEVER, Use
from shootdown.history.owners import Owners
from shootdown.history.rows import Rows

__all__ = ["Burst", "Load", "device_bursts"]

_access = unpacker(AccessArg())
_load = unpacker(LoadArg())
_TRANSLATION_ERROR = Response.SLVERR.value


@dataclass(slots=True, frozen=True)
class Load:
    """Data of a read: the words of ``beat`` and on, as one LOAD record gave them at ``row``."""

    row: int
    beat: int
    words: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Burst:
    """One burst that a device issued in cycle ``issued`` and that ended at row ``done``.

    ``data`` is the descriptor's, ``submit`` the row at which it reached its queue (-1: not in the timeline);
    ``use`` is None where the access was refused.
    """

    tag: int
    engine: int
    asid: int
    mm: int
    id: int
    write: bool
    beats: int
    code: int
    va: int
    issued: int
    done: int
    submit: int = -1
    data: int = 0
    use: Use | None = None
    loads: list[Load] = field(default_factory=list)

    @property
    def vpn(self) -> int:
        """Virtual page."""
        return int(self.va >> PAGE_BITS)


def device_bursts(rows: Rows, uses: Iterable[Use], owners: Owners) -> list[Burst]:
    """Join DMA_SUBMIT, LOAD and DMA_DONE with the uses, in order of ending."""
    waiting: dict[int, list[Load]] = defaultdict(list)
    submitted: dict[int, tuple[int, int]] = {}
    queues: dict[tuple[bool, int], list[Use]] = defaultdict(list)
    for use in uses:
        queues[use.write, use.id].append(use)
    heads: dict[tuple[bool, int], int] = defaultdict(int)
    bursts = []
    index = rows.of(Row.DMA_SUBMIT, Event.LOAD.value, Event.DMA_DONE.value)
    for row, kind, source, arg, tag, a, b in rows.take(
        index, "kind", "thread", "span", "tag", "a", "b"
    ):
        if kind == Row.DMA_SUBMIT:
            submitted[tag] = row, b
        elif kind == Event.LOAD.value:
            fields = _load(arg)
            waiting[fields["id"]].append(Load(row, fields["beat"], (a, b)[: fields["count"]]))
        else:
            fields = _access(arg)
            burst = _burst(row, source, tag, fields, owners.mm(fields["asid"], row), a, b)
            burst.submit, burst.data = submitted.get(tag, (-1, 0))
            if not burst.write:
                burst.loads = waiting.pop(burst.id, [])
            if burst.code != _TRANSLATION_ERROR:
                burst.use = _next_use(queues, heads, burst)
            bursts.append(burst)
    return bursts


def _burst(
    row: int, engine: int, tag: int, arg: dict[str, int], mm: int, va: int, issued: int
) -> Burst:
    return Burst(
        tag=tag,
        engine=engine,
        asid=arg["asid"],
        mm=mm,
        id=arg["id"],
        write=bool(arg["write"]),
        beats=arg["beats"],
        code=arg["code"],
        va=va,
        issued=issued,
        done=row,
    )


def _next_use(
    queues: dict[tuple[bool, int], list[Use]],
    heads: dict[tuple[bool, int], int],
    burst: Burst,
) -> Use | None:
    """Return the burst's use: bursts of an id end in order, so uses before it belong to nobody any more."""
    key = burst.write, burst.id
    queue = queues[key]
    for position in range(heads[key], len(queue)):
        use = queue[position]
        if use.end == NEVER or use.begin > burst.done:
            break
        if use.va == burst.va and use.begin_cycle >= burst.issued:
            heads[key] = position + 1
            return use
    return None
