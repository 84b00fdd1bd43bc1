"""The trace file: a checked header and zlib-compressed columns (docs/trace-format.md)."""

import json
import zlib
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from hostmm.trace.items import (
    VERSION,
    Brk,
    Event,
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
    TraceFile,
    Window,
)

__all__ = ["MAGIC", "decode", "encode"]

MAGIC = b"SHTDNTRC"
PREFIX_BYTES = len(MAGIC) + 12
WINDOW_CODE = 0
EVENT_CODES: dict[type[Event], int] = {
    Mmap: 1,
    Munmap: 2,
    Mprotect: 3,
    Mremap: 4,
    Madvise: 5,
    Brk: 6,
    Msync: 7,
    Fork: 8,
    Exec: 9,
    Exit: 10,
}
EVENT_TYPES = {code: kind for kind, code in EVENT_CODES.items()}
NO_FILE = -1
COLUMNS = {
    "item_process": "<u2",
    "item_code": "u1",
    "event_args": "<i8",
    "window_instructions": "<u4",
    "window_pages": "<u4",
    "page_delta": "<i4",
    "page_kind": "u1",
    "page_line": "u1",
}
"""Columns in file order: name and element type."""

Column = npt.NDArray[Any]


def encode(trace: Trace) -> bytes:
    """Return the bytes of ``trace``; the same trace always gives the same bytes."""
    packed = {}
    sections = []
    for name, column in _columns(trace).items():
        raw = column.astype(COLUMNS[name]).tobytes()
        packed[name] = zlib.compress(raw, 9)
        sections.append(
            {
                "name": name,
                "type": COLUMNS[name],
                "count": int(column.size),
                "bytes": len(packed[name]),
                "crc32": zlib.crc32(packed[name]),
            }
        )
    header = json.dumps(
        {
            "name": trace.name,
            "command": list(trace.command),
            "window_instructions": trace.window_instructions,
            "dropped_accesses": trace.dropped_accesses,
            "synthesized_pages": trace.synthesized_pages,
            "files": [[f.name, f.size_bytes] for f in trace.files],
            "processes": [[p.pid, p.parent] for p in trace.processes],
            "sections": sections,
        },
        sort_keys=True,
    ).encode()
    prefix = b"".join(
        value.to_bytes(4, "little") for value in (trace.version, len(header), zlib.crc32(header))
    )
    return MAGIC + prefix + header + b"".join(packed.values())


def _columns(trace: Trace) -> dict[str, Column]:
    items = [trace.processes[owner].items[index] for owner, index in trace.order]
    windows = [item for item in items if isinstance(item, Window)]
    pages = _join([w.pages for w in windows], "<i8")
    return {
        "item_process": np.array([owner for owner, _ in trace.order], dtype=np.int64),
        "item_code": np.array([_code(item) for item in items], dtype=np.int64),
        "event_args": np.array([arg for item in items for arg in _args(item)], dtype=np.int64),
        "window_instructions": np.array([w.instructions for w in windows], dtype=np.int64),
        "window_pages": np.array([w.pages.size for w in windows], dtype=np.int64),
        "page_delta": np.diff(pages, prepend=0),
        "page_kind": _join([w.kinds for w in windows], "u1"),
        "page_line": _join([w.lines for w in windows], "u1"),
    }


def _join(parts: list[Column], dtype: str) -> Column:
    return np.concatenate([*parts, np.empty(0, dtype=dtype)])


def _code(item: Item) -> int:
    return WINDOW_CODE if isinstance(item, Window) else EVENT_CODES[type(item)]


def _args(item: Item) -> tuple[int, ...]:
    if isinstance(item, Window):
        return ()
    return tuple(NO_FILE if value is None else value for value in astuple(item))


def decode(data: bytes) -> Trace:
    """Return the trace that :func:`encode` packed.

    Raises
    ------
    TraceError
        The bytes are no trace, of another version, truncated or damaged.
    """
    if len(data) < PREFIX_BYTES or not data.startswith(MAGIC):
        raise TraceError("not a trace" if not MAGIC.startswith(data[:8]) else "truncated")
    version, header_bytes, header_crc = (
        int.from_bytes(data[at : at + 4], "little") for at in range(len(MAGIC), PREFIX_BYTES, 4)
    )
    if version != VERSION:
        raise TraceError(f"trace version {version} is not known (this program reads {VERSION})")
    raw = data[PREFIX_BYTES : PREFIX_BYTES + header_bytes]
    if len(raw) < header_bytes:
        raise TraceError("truncated in the header")
    if zlib.crc32(raw) != header_crc:
        raise TraceError("damaged: the header's checksum is wrong")
    try:
        header = json.loads(raw)
        columns = _unpack(header["sections"], data[PREFIX_BYTES + header_bytes :])
        return _assemble(header, columns)
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TraceError(f"damaged: header and columns do not fit ({error})") from error


def _unpack(sections: list[dict[str, Any]], body: bytes) -> dict[str, Column]:
    if [(s["name"], s["type"]) for s in sections] != list(COLUMNS.items()):
        raise TraceError("damaged: the columns are not those of this version")
    columns = {}
    at = 0
    for section in sections:
        packed = body[at : at + section["bytes"]]
        at += section["bytes"]
        if len(packed) < section["bytes"]:
            raise TraceError(f"truncated in column {section['name']}")
        if zlib.crc32(packed) != section["crc32"]:
            raise TraceError(f"damaged: the checksum of column {section['name']} is wrong")
        try:
            raw = zlib.decompress(packed)
        except zlib.error as error:
            raise TraceError(f"damaged: column {section['name']} is no zlib stream") from error
        column = np.frombuffer(raw, dtype=section["type"])
        if column.size != section["count"]:
            raise TraceError(f"damaged: column {section['name']} has {column.size} elements")
        columns[section["name"]] = column
    if at != len(body):
        raise TraceError(f"damaged: {len(body) - at} bytes follow the last column")
    return columns


def _assemble(header: dict[str, Any], columns: dict[str, Column]) -> Trace:
    owners = columns["item_process"].tolist()
    items = _items(columns)
    if len(items) != len(owners):
        raise ValueError("item counts differ")
    of_process: list[list[Item]] = [[] for _ in header["processes"]]
    order = []
    for owner, item in zip(owners, items, strict=True):
        order.append((owner, len(of_process[owner])))
        of_process[owner].append(item)
    return Trace(
        version=VERSION,
        name=str(header["name"]),
        command=tuple(str(word) for word in header["command"]),
        window_instructions=int(header["window_instructions"]),
        files=tuple(
            TraceFile(index, str(name), int(size))
            for index, (name, size) in enumerate(header["files"])
        ),
        processes=tuple(
            Process(int(pid), None if parent is None else int(parent), tuple(own))
            for (pid, parent), own in zip(header["processes"], of_process, strict=True)
        ),
        order=tuple(order),
        dropped_accesses=int(header["dropped_accesses"]),
        synthesized_pages=int(header["synthesized_pages"]),
    )


def _items(columns: dict[str, Column]) -> list[Item]:
    windows = iter(_windows(columns))
    args = columns["event_args"].tolist()
    at = 0
    items: list[Item] = []
    for code in columns["item_code"].tolist():
        if code == WINDOW_CODE:
            items.append(next(windows, None) or _short("windows"))
            continue
        kind = EVENT_TYPES[code]
        count = len(fields(kind))
        own = args[at : at + count]
        at += count
        if len(own) < count:
            _short("event arguments")
        items.append(_mmap(own) if kind is Mmap else kind(*own))
    if at != len(args) or next(windows, None) is not None:
        raise ValueError("more windows or event arguments than items")
    return items


def _mmap(args: list[int]) -> Mmap:
    addr, length, prot, flags, file, offset_pages = args
    return Mmap(addr, length, prot, flags, None if file == NO_FILE else file, offset_pages)


def _short(what: str) -> Window:
    raise ValueError(f"fewer {what} than items")


def _windows(columns: dict[str, Column]) -> list[Window]:
    counts = columns["window_pages"].astype(np.int64)
    pages = np.cumsum(columns["page_delta"].astype(np.int64))
    kinds, lines = columns["page_kind"], columns["page_line"]
    instructions = columns["window_instructions"].tolist()
    if not counts.sum() == pages.size == kinds.size == lines.size:
        raise ValueError("page counts differ")
    ends = np.cumsum(counts)
    starts = ends - counts
    pages.setflags(write=False)
    return [
        Window(count, pages[start:end], kinds[start:end], lines[start:end])
        for count, start, end in zip(instructions, starts.tolist(), ends.tolist(), strict=True)
    ]
