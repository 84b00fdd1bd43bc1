"""The rules that every trace obeys, on its way into a file and out of it."""

import numpy as np

from hostmm.trace.items import (
    ADDRESS_BITS,
    LINE_BYTES_LOG2,
    PAGE_BYTES,
    PAGE_BYTES_LOG2,
    VERSION,
    Access,
    Brk,
    Exec,
    Exit,
    Fork,
    Item,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Msync,
    Munmap,
    Process,
    Trace,
    TraceError,
    Window,
)

__all__ = ["check"]

PAGES = 1 << (ADDRESS_BITS - PAGE_BYTES_LOG2)
LINES = 1 << (PAGE_BYTES_LOG2 - LINE_BYTES_LOG2)


def check(trace: Trace) -> None:
    """Refuse a trace that breaks a rule of the format.

    Raises
    ------
    TraceError
        The first rule broken, with the process and the item.
    """
    if trace.version != VERSION:
        raise TraceError(f"trace version must be {VERSION}, not {trace.version}")
    if not trace.name or not trace.command:
        raise TraceError("a trace must have a name and a command")
    if trace.window_instructions < 1:
        raise TraceError(f"window must be 1 or more, not {trace.window_instructions}")
    if trace.dropped_accesses < 0 or trace.synthesized_pages < 0:
        raise TraceError("counts of dropped accesses and synthesized pages must be 0 or more")
    for index, file in enumerate(trace.files):
        if file.id != index or file.size_bytes < 0:
            raise TraceError(f"file {index} must have id {index} and a size, not {file!r}")
    _check_processes(trace)
    _check_order(trace)
    for process in trace.processes:
        for index, item in enumerate(process.items):
            problem = _problem(item, trace, last=index == len(process.items) - 1)
            if problem:
                raise TraceError(f"process {process.pid}, item {index}: {problem}")


def _check_processes(trace: Trace) -> None:
    if not trace.processes:
        raise TraceError("a trace must have a process")
    known: set[int] = set()
    for index, process in enumerate(trace.processes):
        if process.pid < 1 or process.pid in known:
            raise TraceError(f"process {process.pid}: numbers must be 1 or more and unique")
        if (process.parent is None) != (index == 0):
            raise TraceError(f"process {process.pid}: only the first has no parent")
        if process.parent is not None and process.parent not in known:
            raise TraceError(f"process {process.pid}: parent {process.parent} must come first")
        known.add(process.pid)


def _check_order(trace: Trace) -> None:
    """Check that the order holds every item once and that children follow their fork."""
    done = [0] * len(trace.processes)
    index_of = {process.pid: i for i, process in enumerate(trace.processes)}
    alive = {0}
    for owner, index in trace.order:
        if not 0 <= owner < len(done) or done[owner] != index or owner not in alive:
            raise TraceError(f"order: item {index} of process index {owner} is out of turn")
        if index >= len(trace.processes[owner].items):
            raise TraceError(f"order: process index {owner} has no item {index}")
        done[owner] += 1
        item = trace.processes[owner].items[index]
        if isinstance(item, Fork):
            alive.add(_child(item, trace.processes[owner], trace, index_of, alive))
    if done != [len(process.items) for process in trace.processes]:
        raise TraceError("order: items are missing")
    if len(alive) != len(trace.processes):
        raise TraceError("order: a process was never forked")


def _child(
    fork: Fork, parent: Process, trace: Trace, index_of: dict[int, int], alive: set[int]
) -> int:
    child = index_of.get(fork.child)
    if child is None or child in alive or trace.processes[child].parent != parent.pid:
        raise TraceError(f"process {parent.pid}: fork of {fork.child}, which is not a new child")
    return child


def _problem(item: Item, trace: Trace, *, last: bool) -> str | None:
    """Return what is wrong with ``item``, or None."""
    match item:
        case Window():
            return _window_problem(item, trace.window_instructions)
        case Mmap(addr, length, _, _, file, offset_pages):
            if file is not None and not 0 <= file < len(trace.files):
                return f"there is no file {file}"
            if offset_pages < 0:
                return f"offset must be 0 or more, not {offset_pages}"
            return _range_problem(addr, length)
        case Munmap(addr, length) | Mprotect(addr, length) | Madvise(addr, length):
            return _range_problem(addr, length)
        case Msync(addr, length):
            return _range_problem(addr, length)
        case Mremap(old, old_length, new, new_length):
            return _range_problem(old, old_length) or _range_problem(new, new_length)
        case Brk(start, end):
            return None if start == end else _range_problem(start, end - start)
        case Exit():
            return None if last else "an exit must be the last item"
        case Fork() | Exec():
            return None


def _range_problem(addr: int, length: int) -> str | None:
    if addr % PAGE_BYTES or length % PAGE_BYTES or length <= 0 or addr < 0:
        return f"range must be whole pages, not {addr:#x} + {length:#x}"
    if addr + length > 1 << ADDRESS_BITS:
        return f"range {addr:#x} + {length:#x} must end below 2^{ADDRESS_BITS}"
    return None


def _window_problem(window: Window, limit: int) -> str | None:
    sizes = {window.pages.size, window.kinds.size, window.lines.size}
    if len(sizes) != 1 or 0 in sizes:
        return "a window must have pages, and as many kinds and lines"
    if not 0 <= window.instructions <= limit:
        return f"window must have at most {limit} instructions, not {window.instructions}"
    if int(window.pages.min()) < 0 or int(window.pages.max()) >= PAGES:
        return f"pages must lie below 2^{ADDRESS_BITS}"
    if np.unique(window.pages).size != window.pages.size:
        return "a page comes twice in one window"
    every = int(Access.LOAD | Access.STORE | Access.FETCH)
    if int(window.kinds.min()) < 1 or int(window.kinds.max()) > every:
        return f"kinds must be 1 to {every}"
    if int(window.lines.max()) >= LINES:
        return f"lines must be 0 to {LINES - 1}"
    return None
