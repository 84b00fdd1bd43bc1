"""A host on the model of the emulator: run threads to their end, look at timeline and memory."""

import numpy as np

from hostmm.audit import audit
from hostmm.callers.syscalls import mmap
from hostmm.driver.driver import Driver
from hostmm.machine.machine import Machine, MachineConfig
from hostmm.machine.timeline import Row
from hostmm.mm.space import Vma
from hostmm.model import Model
from hostmm.policies import V6_6, V9
from hostmm.scenarios.base import store
from hostmm.subscribers.sva import Sva

MEMORY_BYTES = 16 << 20
BASE = 0x1000


class Host:
    """A machine and a model; ``run`` plays threads to their end."""

    def __init__(self, *, policy=V9, frames=512, seed=1):
        config = MachineConfig(frames=frames, memory_bytes=MEMORY_BYTES, seed=seed)
        self.machine = Machine(config, policy)
        Driver(self.machine)
        self.model = Model(memory_bytes=MEMORY_BYTES)

    def run(self, *threads):
        """Run generators (named thread0, ...) to the end."""
        for index, steps in enumerate(threads):
            self.machine.sched.spawn(f"thread{index}", steps)
        session = self.machine.sched.run()
        try:
            batch = next(session)
            while True:
                batch = session.send(self.model.exchange(batch))
        except StopIteration:
            return

    def play(self, *threads):
        """Run threads one after the other, then audit."""

        def main():
            for thread in threads:
                yield from thread
            yield from audit(self.machine)

        self.run(main())

    def anonymous(self, mm, start, pages, *, write=True):
        """Make (not link) a private anonymous vma."""
        return Vma(mm, start, start + pages, True, write, pgoff=start)

    def mapping(self, mm, start, pages, file, *, shared=True, write=True, pgoff=0):
        """Make (not link) a file vma."""
        return Vma(mm, start, start + pages, True, write, shared=shared, file=file, pgoff=pgoff)

    def rows(self, *kinds):
        """The host rows of these kinds, in order, as dicts of ints."""
        columns = self.machine.timeline.columns()
        keep = np.flatnonzero((columns["hw"] == 0) & np.isin(columns["kind"], kinds))
        return [{name: int(column[i]) for name, column in columns.items()} for i in keep]

    def names(self, path, *kinds):
        """Names of the rows of these kinds inside instances of ``path``, in order."""
        number = self.machine.timeline.path(path)
        return [Row(row["kind"]).name for row in self.rows(*kinds) if row["path"] == number]

    def word(self, address):
        """A word of the emulated memory."""
        return int(self.model.memory[address // 8])

    def translate_now(self, mm, vpn, line=0):
        """Physical address of a line, by the host's page table at this moment."""
        pte = mm.tables.get(vpn)
        assert pte & 1, f"vpn {vpn:#x} is not mapped"
        return (pte >> 10 << 12) + 64 * line

    def translate(self, mm, vpn):
        """Physical address of a page, by the page table in the emulated memory."""
        table = mm.tables.root
        for level in (2, 1, 0):
            entry = self.word((table << 12) + 8 * (vpn >> 9 * level & 511))
            assert entry & 1, f"vpn {vpn:#x} is not mapped"
            table = entry >> 10
        return table << 12


class Mapped(Host):
    """A host with a bound address space that maps written pages at :data:`BASE`: the first holds ``first``, the next 1 more.

    ``kind`` is the kind of their file, disk or tmpfs; None: they are anonymous.
    """

    def __init__(self, policy=V6_6, *, pages=1, first=7, kind=None):
        super().__init__(policy=policy)
        self.mm = self.machine.new_mm()
        self.file = self.machine.new_file("f", tmpfs=kind == "tmpfs") if kind else None
        self.pages = pages
        self.first = first

    def prepare(self):
        yield from Sva.bind(self.machine, self.mm)
        vma = self.anonymous(self.mm, BASE, self.pages)
        if self.file is not None:
            vma = self.mapping(self.mm, BASE, self.pages, self.file)
        yield from mmap(self.machine, self.mm, vma)
        for offset in range(self.pages):
            yield from store(self.machine, self.mm, BASE + offset, self.first + offset)

    def page(self, offset=0, mm=None):
        return self.machine.frames.pages[self.translate_now(mm or self.mm, BASE + offset) >> 12]

    def content(self, mm=None):
        return self.word(self.page(mm=mm).address)

    def contents(self, mm=None):
        return [self.word(self.page(offset, mm).address) for offset in range(self.pages)]
