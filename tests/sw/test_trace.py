"""The trace format: round trips, refusals, and what the shipped traces promise."""

import json
import shlex
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostmm import trace as tr
from hostmm.trace.file import COLUMNS, MAGIC, decode, encode

PAGES = 1 << (tr.ADDRESS_BITS - tr.PAGE_BYTES_LOG2)


@st.composite
def windows(draw: st.DrawFn) -> tr.Window:
    """Make a window that the format allows."""
    pages = draw(st.lists(st.integers(0, PAGES - 1), min_size=1, max_size=6, unique=True))
    return tr.Window(
        instructions=draw(st.integers(0, 100)),
        pages=np.array(pages, dtype=np.int64),
        kinds=np.array([draw(st.integers(1, 7)) for _ in pages], dtype=np.uint8),
        lines=np.array([draw(st.integers(0, 63)) for _ in pages], dtype=np.uint8),
    )


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """Make the address and length of whole pages in the user half."""
    first = draw(st.integers(0, PAGES - 1))
    pages = draw(st.integers(1, min(PAGES - first, 1 << 16)))
    return first * tr.PAGE_BYTES, pages * tr.PAGE_BYTES


word = st.integers(0, 1 << 31)
events = st.one_of(
    st.builds(
        lambda r, *rest: tr.Mmap(*r, *rest),
        ranges(),
        word,
        word,
        st.one_of(st.none(), st.integers(0, 1)),
        word,
    ),
    ranges().map(lambda r: tr.Munmap(*r)),
    st.builds(lambda r, p: tr.Mprotect(*r, p), ranges(), word),
    st.builds(lambda r, n, f: tr.Mremap(*r, *n, f), ranges(), ranges(), word),
    st.builds(lambda r, a: tr.Madvise(*r, a), ranges(), word),
    ranges().map(lambda r: tr.Brk(r[0], sum(r))),
    st.builds(lambda r, f: tr.Msync(*r, f), ranges(), word),
    st.just(tr.Exec()),
)
items = st.lists(st.one_of(windows(), events), max_size=5)


@st.composite
def traces(draw: st.DrawFn) -> tr.Trace:
    """A parent that forks a child after its first items; their later items alternate."""
    before, after, child = draw(items), draw(items), draw(items)
    parent = [*before, tr.Fork(7), *after, tr.Exit()]
    order = [(0, i) for i in range(len(before) + 1)]
    rest = [(0, i) for i in range(len(order), len(parent))]
    own = [(1, i) for i in range(len(child))]
    while rest and own:
        order += [rest.pop(0), own.pop(0)]
    return tr.Trace(
        version=tr.VERSION,
        name=draw(st.text(min_size=1, max_size=5)),
        command=tuple(draw(st.lists(st.text(max_size=5), min_size=1, max_size=3))),
        window_instructions=100,
        files=(tr.TraceFile(0, "a", 0), tr.TraceFile(1, "b", draw(word))),
        processes=(tr.Process(3, None, tuple(parent)), tr.Process(7, 3, tuple(child))),
        order=(*order, *rest, *own),
        dropped_accesses=draw(word),
        synthesized_pages=draw(word),
    )


def window(*pages: int, instructions: int = 1) -> tr.Window:
    """Return a window that loads the first line of each page."""
    ones = np.ones(len(pages), dtype=np.uint8)
    return tr.Window(instructions, np.array(pages, dtype=np.int64), ones, ones)


def small(*own: tr.Item) -> tr.Trace:
    """Return the trace of one process that did ``own``."""
    return tr.Trace(
        version=tr.VERSION,
        name="small",
        command=("true",),
        window_instructions=100,
        files=(tr.TraceFile(0, "a", 4096),),
        processes=(tr.Process(1, None, own),),
        order=tuple((0, i) for i in range(len(own))),
    )


SMALL = small(tr.Mmap(0x1000, 0x2000, 3, 2, 0, 0), window(1, 2), window(2), tr.Exit())


@settings(deadline=None)
@given(traces())
def test_round_trip(trace: tr.Trace) -> None:
    """Reading gives back what was written, and writing it again the same bytes."""
    data = encode(trace)
    assert decode(data) == trace
    assert encode(decode(data)) == data


def test_save_and_load(tmp_path: Path) -> None:
    """A saved trace loads, and no temporary file stays."""
    path = tmp_path / "small.trace"
    tr.save(SMALL, path)
    assert tr.load(path) == SMALL
    assert [p.name for p in tmp_path.iterdir()] == ["small.trace"]
    assert SMALL.footprint_pages() == 2
    assert SMALL.instructions() == 2
    assert SMALL.page_accesses() == 3


def test_footprint_counts_each_address_space() -> None:
    """An exec starts a new address space."""
    trace = small(window(1, 2), window(2), tr.Exec(), window(1))
    assert trace.footprint_pages() == 3


def region_cuts() -> dict[str, int]:
    """Return one length inside every region of the file of SMALL."""
    data = encode(SMALL)
    header = int.from_bytes(data[12:16], "little")
    cuts = {"nothing": 0, "magic": 4, "prefix": 14, "header": 20 + header // 2}
    at = 20 + header
    for section in json.loads(data[20:at])["sections"]:
        cuts[section["name"]] = at + section["bytes"] - 1
        at += section["bytes"]
    assert at == len(data)
    return cuts


@pytest.mark.parametrize("region", region_cuts())
def test_truncated_in(region: str, tmp_path: Path) -> None:
    """A file that ends anywhere early is refused in one line."""
    path = tmp_path / "cut.trace"
    path.write_bytes(encode(SMALL)[: region_cuts()[region]])
    with pytest.raises(tr.TraceError, match=r"^[^\n]*cut\.trace: [^\n]*truncated[^\n]*$"):
        tr.load(path)


@pytest.mark.parametrize("region", [name for name in region_cuts() if name != "nothing"])
def test_damaged_in(region: str) -> None:
    """A flipped bit anywhere is noticed."""
    data = bytearray(encode(SMALL))
    data[region_cuts()[region] - 1] ^= 0x10
    with pytest.raises(tr.TraceError):
        decode(bytes(data))


def test_foreign_file(tmp_path: Path) -> None:
    """A file of another kind is refused."""
    path = tmp_path / "a.trace"
    path.write_bytes(b"PK\x03\x04 something else, long enough to hold a prefix")
    with pytest.raises(tr.TraceError, match="not a trace"):
        tr.load(path)


def test_other_version() -> None:
    """A file of another version says which."""
    data = bytearray(encode(SMALL))
    data[len(MAGIC)] = 2
    with pytest.raises(tr.TraceError, match=r"version 2 is not known .*reads 1"):
        decode(bytes(data))


@pytest.mark.parametrize("value", ["1e400", "[" * 100_000])
def test_a_header_that_python_refuses(value: str) -> None:
    """Its checksum is right: it was made by somebody."""
    data = encode(SMALL)
    header_bytes = int.from_bytes(data[12:16], "little")
    header = data[20 : 20 + header_bytes].replace(
        b'"dropped_accesses": 0', f'"dropped_accesses": {value}'.encode()
    )
    prefix = data[:12] + b"".join(
        number.to_bytes(4, "little") for number in (len(header), zlib.crc32(header))
    )
    with pytest.raises(tr.TraceError, match="damaged: header and columns do not fit"):
        decode(prefix + header + data[20 + header_bytes :])


def test_bytes_after_the_end() -> None:
    """A longer file is refused."""
    with pytest.raises(tr.TraceError, match="3 bytes follow"):
        decode(encode(SMALL) + b"abc")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_does_not_fit(column: str) -> None:
    """A file with right checksums and one element too few in a column is refused."""
    data = encode(SMALL)
    end = 20 + int.from_bytes(data[12:16], "little")
    header = json.loads(data[20:end])
    body = b""
    for section in header["sections"]:
        packed, end = data[end : end + section["bytes"]], end + section["bytes"]
        if section["name"] == column:
            size = np.dtype(section["type"]).itemsize
            packed = zlib.compress(zlib.decompress(packed)[:-size])
            section.update(count=section["count"] - 1, bytes=len(packed), crc32=zlib.crc32(packed))
        body += packed
    raw = json.dumps(header).encode()
    prefix = b"".join(n.to_bytes(4, "little") for n in (1, len(raw), zlib.crc32(raw)))
    with pytest.raises(tr.TraceError, match="damaged"):
        decode(MAGIC + prefix + raw + body)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is one line with its reason."""
    with pytest.raises(tr.TraceError, match=r"cannot read trace .*none\.trace: No such file"):
        tr.load(tmp_path / "none.trace")


def test_unwritable_folder(tmp_path: Path) -> None:
    """A folder that is not there is one line with its reason."""
    with pytest.raises(tr.TraceError, match="cannot write trace"):
        tr.save(SMALL, tmp_path / "none" / "a.trace")


UNORDERED = replace(SMALL, order=((0, 1), (0, 0), (0, 2), (0, 3)))
UNFINISHED = replace(SMALL, order=SMALL.order[:-1])
STRANGER = replace(SMALL, processes=(*SMALL.processes, tr.Process(2, 1, ())))
BROKEN = {
    "version must be 1": replace(SMALL, version=2),
    "name and a command": replace(SMALL, command=()),
    "window must be 1 or more": replace(SMALL, window_instructions=0),
    "must be 0 or more": replace(SMALL, dropped_accesses=-1),
    "file 0 must have id 0": replace(SMALL, files=(tr.TraceFile(1, "a", 0),)),
    "must have a process": replace(SMALL, processes=(), order=()),
    "only the first has no parent": replace(SMALL, processes=(tr.Process(1, 1, ()),), order=()),
    "out of turn": UNORDERED,
    "items are missing": UNFINISHED,
    "never forked": STRANGER,
    "not a new child": small(tr.Fork(1)),
    "there is no file 1": small(tr.Mmap(0, 4096, 3, 2, 1, 0)),
    "offset must be 0 or more": small(tr.Mmap(0, 4096, 3, 2, 0, -1)),
    "must be whole pages": small(tr.Munmap(0x1001, 4096)),
    "must end below": small(tr.Madvise(1 << 38, 4096, 4)),
    "exit must be the last": small(tr.Exit(), window(1)),
    "must have pages": small(window()),
    "at most 100 instructions": small(window(1, instructions=101)),
    "pages must lie below": small(window(PAGES)),
    "twice in one window": small(window(1, 1)),
    "kinds must be": small(replace(window(1), kinds=np.array([8], dtype=np.uint8))),
    "lines must be": small(replace(window(1), lines=np.array([64], dtype=np.uint8))),
}


@pytest.mark.parametrize("message", BROKEN)
def test_save_refuses(message: str, tmp_path: Path) -> None:
    """Nothing is written of a trace that breaks a rule."""
    with pytest.raises(tr.TraceError, match=message):
        tr.save(BROKEN[message], tmp_path / "a.trace")
    assert not list(tmp_path.iterdir())


def shipped(name: str) -> tr.Trace:
    """Load a shipped trace."""
    return tr.load(tr.shipped()[name])


def test_which_are_shipped() -> None:
    """The shipped traces are found by name."""
    names = {"compile", "shared", "shell", "snapshot", "sqlite", "words"}
    assert set(tr.shipped()) == names


@pytest.mark.parametrize("name", tr.shipped())
def test_every_shipped_trace(name: str) -> None:
    """Each is small, complete, documented with its command, and written by this version."""
    path = tr.shipped()[name]
    trace = tr.load(path)
    assert trace.name == name
    assert path.stat().st_size < 200 << 10
    assert 10_000 <= trace.page_accesses() <= 150_000
    assert trace.synthesized_pages == 0
    assert trace.dropped_accesses == 0
    assert all(isinstance(process.items[-1], tr.Exit) for process in trace.processes)
    commands = (path.parent / "README.md").read_text().splitlines()
    assert trace.command in [tuple(shlex.split(line)) for line in commands if "record -o" in line]
    assert encode(trace) == path.read_bytes()


@pytest.mark.parametrize("name", tr.shipped())
def test_stores_of_shipped_traces_may_be_made(name: str) -> None:
    """No window touches a page that is not mapped, nor stores where storing is not allowed."""
    trace = shipped(name)
    spaces: dict[int, dict[int, int]] = {0: {}}
    index = {process.pid: i for i, process in enumerate(trace.processes)}
    for owner, at in trace.order:
        item = trace.processes[owner].items[at]
        space = spaces[owner]
        if isinstance(item, tr.Window):
            kinds = zip(item.pages.tolist(), item.kinds.tolist(), strict=True)
            assert all(space[page] & 2 for page, kind in kinds if kind & tr.Access.STORE)
            assert all(page in space for page in item.pages.tolist())
        elif isinstance(item, tr.Fork):
            spaces[index[item.child]] = dict(space)
        elif isinstance(item, tr.Exec):
            space.clear()
        else:
            apply(space, item)


def apply(space: dict[int, int], event: tr.Item) -> None:
    """Follow an event in a map of page number to protection."""

    def pages(addr: int, length: int) -> range:
        return range(addr >> 12, (addr + length) >> 12)

    match event:
        case tr.Mmap(addr, length, prot):
            space.update(dict.fromkeys(pages(addr, length), prot))
        case tr.Mprotect(addr, length, prot):
            space.update({page: prot for page in pages(addr, length) if page in space})
        case tr.Munmap(addr, length):
            for page in pages(addr, length):
                space.pop(page, None)
        case tr.Mremap(old, old_length, new, new_length):
            prot = space[old >> 12]
            for page in pages(old, old_length):
                del space[page]
            space.update(dict.fromkeys(pages(new, new_length), prot))
        case tr.Brk(start, end):
            space.update(dict.fromkeys(pages(start, end - start), 3))


def test_shared_maps_two_files_shared_and_writes_them() -> None:
    """Two shared writable files are written between msyncs, each at least 100 times a page."""
    trace = shipped("shared")
    (process,) = trace.processes
    maps = [item for item in process.items if isinstance(item, tr.Mmap)]
    shared = [m for m in maps if m.flags & 1 and m.prot & 2 and m.file is not None]
    names = [trace.files[m.file].name for m in shared if m.file is not None]
    assert names == ["accounts", "journal"]
    assert 400 <= trace.footprint_pages() <= 1200
    assert 2_000_000 <= trace.instructions() <= 10_000_000
    for mapping in shared:
        synced = [
            i
            for i, item in enumerate(process.items)
            if isinstance(item, tr.Msync) and item.addr == mapping.addr
        ]
        begin = process.items.index(mapping)
        passes = zip([begin, *synced], synced, strict=False)
        written = [len(stored(process.items[a:b], mapping)) for a, b in passes]
        assert len(synced) >= 5
        assert sum(written) >= 100
        assert min(written) > 10


def test_shared_copies_private_file_pages_on_write() -> None:
    """A private file mapping is stored to on at least 100 pages."""
    trace = shipped("shared")
    (process,) = trace.processes
    rates = [file.id for file in trace.files if file.name == "rates"]
    starts = [
        i
        for i, item in enumerate(process.items)
        if isinstance(item, tr.Mmap) and item.file in rates and item.flags & 2
    ]
    copies = 0
    for start, end in zip(starts, [*starts[1:], len(process.items)], strict=True):
        mapping = process.items[start]
        assert isinstance(mapping, tr.Mmap)
        copies += len(stored(process.items[start:end], mapping))
    assert copies >= 100


def stored(items: tuple[tr.Item, ...], mapping: tr.Mmap) -> set[int]:
    """Return the pages of ``mapping`` that ``items`` store to."""
    first, last = mapping.addr >> 12, (mapping.addr + mapping.length) >> 12
    return {
        page
        for item in items
        if isinstance(item, tr.Window)
        for page in item.pages[(item.kinds & tr.Access.STORE) != 0].tolist()
        if first <= page < last
    }


def test_snapshot_writes_on_both_sides_of_each_fork() -> None:
    """Parent and child write many pages that they share."""
    trace = shipped("snapshot")
    parent, *children = trace.processes
    forks = [i for i, item in enumerate(parent.items) if isinstance(item, tr.Fork)]
    assert len(forks) == len(children) == 4
    maps = [item for item in parent.items if isinstance(item, tr.Mmap) and item.file is None]
    table = max((m for m in maps if not m.flags & 0x20000), key=lambda mapping: mapping.length)
    for child, start, end in zip(children, forks, [*forks[1:], len(parent.items)], strict=True):
        assert len(stored(parent.items[start:end], table)) >= 100
        assert len(stored(child.items, table)) >= 100
        assert not any(isinstance(item, tr.Exec) for item in child.items)


def test_shell_and_compile_execute_their_children() -> None:
    """The children run programs of their own."""
    for name, children in (("shell", 3), ("compile", 2)):
        trace = shipped(name)
        assert len(trace.processes) == 1 + children
        for child in trace.processes[1:]:
            assert any(isinstance(item, tr.Exec) for item in child.items)


def test_sqlite_shares_its_index() -> None:
    """The log's index is a shared writable file mapping."""
    trace = shipped("sqlite")
    index = [file.id for file in trace.files if file.name == "sqlite.db-shm"]
    maps = [item for item in trace.processes[0].items if isinstance(item, tr.Mmap)]
    assert any(m.file in index and m.flags & 1 and m.prot & 2 for m in maps)
