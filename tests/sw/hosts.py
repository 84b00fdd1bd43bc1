"""A host on the model of the emulator: run threads to their end, look at timeline and memory."""

import numpy as np

from hostmm.driver import Driver
from hostmm.machine import Machine, MachineConfig
from hostmm.mm.space import Vma
from hostmm.model import Model
from hostmm.policies import V9
from hostmm.timeline import Row

MEMORY_BYTES = 16 << 20


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
