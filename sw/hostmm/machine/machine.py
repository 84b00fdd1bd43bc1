"""Everything of one run: clocks, link, scheduler, memory, policy."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostmm.callers.reclaim import Reclaim
from hostmm.callers.writeback import Writeback
from hostmm.driver.link import Link
from hostmm.errors import HostError
from hostmm.machine.costs import CostTable
from hostmm.machine.locks import Lock
from hostmm.machine.scheduler import Scheduler
from hostmm.machine.timeline import LockClass, Row, Timeline
from hostmm.mm.files import AddressSpace
from hostmm.mm.frames import FIRST_FRAME, PAGE_BYTES, PAGE_WORDS, FrameAllocator, Page
from hostmm.mm.lru import Lru
from hostmm.mm.space import MmStruct
from hostmm.mm.swap import Swap
from hostmm.notifier import NotifierChain
from hostmm.policies import Policy

if TYPE_CHECKING:
    from hostmm.driver.driver import Driver

__all__ = ["Machine", "MachineConfig"]


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Parameters of the host side of one run.

    Parameters
    ----------
    frames : int
        Frames that may be in use at once.
    memory_bytes : int
        Size of the emulated memory; its upper half is the backing store (swap and files).
    cycle_ns : int
        Period of the emulated clock.
    seed : int
    preempt : tuple of int
        Steps at which threads lose their CPU (see :class:`Scheduler`).
    costs : CostTable
    """

    frames: int
    memory_bytes: int = 128 << 20
    cycle_ns: int = 10
    seed: int = 1
    preempt: tuple[int, ...] = ()
    costs: CostTable = field(default_factory=CostTable)

    def __post_init__(self) -> None:
        most = self.memory_bytes // 2 // PAGE_BYTES - FIRST_FRAME
        if not 64 <= self.frames <= most:
            raise HostError(f"frames must be from 64 to {most}, not {self.frames}")


class Machine:
    """Everything of one run.

    Parameters
    ----------
    config : MachineConfig
    policy : Policy
        When the mm paths notify.
    chain : type
        What every address space's notifier chain is.

    Attributes
    ----------
    lru, reclaim, writeback
        Lists of user pages; watermarks and kswapd's bell; dirty threshold and pdflush's bell.
    mms, files : list
        Every address space and every file that was made.
    driver : Driver
        The driver of the secondary MMU; sets itself when it is made.
    device_tables : set of int
        Frames of page tables that subscribers keep for their devices.
    hugetlb_mutex : Lock
        Held by whoever handles a fault on a hugetlbfs mapping.
    sparse_page : Page or None
        The page of zeros that holes of execute-in-place files map; made when first needed, never freed.
    """

    driver: "Driver"

    def __init__(
        self,
        config: MachineConfig,
        policy: Policy,
        *,
        chain: type[NotifierChain] = NotifierChain,
    ) -> None:
        self.config = config
        self.policy = policy
        self.chain = chain
        self.costs = config.costs
        self.timeline = Timeline(cycle_ns=config.cycle_ns)
        self.link = Link(cycle_ns=config.cycle_ns)
        self.sched = Scheduler(
            timeline=self.timeline,
            costs=config.costs,
            link=self.link,
            seed=config.seed,
            preempt=config.preempt,
        )
        self._locks = 0
        self._callbacks = 0
        self._versions = 0
        self._slots = 0
        self.frames = FrameAllocator(self, config.frames)
        self.lru = Lru()
        self.reclaim = Reclaim(config.frames)
        self.writeback = Writeback(config.frames)
        self.swap = Swap(self)
        self.sparse_page: Page | None = None
        self.hugetlb_mutex = Lock("hugetlb_instantiation_mutex", LockClass.PAGE, 0, "hugetlb", True)
        self.device_tables: set[int] = set()
        self.mms: list[MmStruct] = []
        self.files: list[AddressSpace] = []

    def new_lock(
        self,
        name: str,
        lock_class: LockClass,
        *,
        key: str | None = None,
        sleeps: bool | None = None,
    ) -> Lock:
        """Make a lock with a number of its own; see :class:`Lock`.

        Without ``key`` the class is the key. Without ``sleeps``, mmap_sem and page locks sleep, page-table locks do
        not, and the locks of the reverse maps are as the policy's kernel has them.
        """
        self._locks += 1
        if sleeps is None:
            sleeps = lock_class in (LockClass.MMAP, LockClass.PAGE) or (
                lock_class is LockClass.RMAP and self.policy.rmap_sleeps
            )
        return Lock(name, lock_class, self._locks, key or lock_class.name, sleeps)

    def new_mm(self) -> MmStruct:
        """Make an empty address space."""
        mm = MmStruct(self, len(self.mms) + 1)
        self.mms.append(mm)
        return mm

    def new_file(self, name: str, *, tmpfs: bool = False, hugetlb: bool = False) -> AddressSpace:
        """Make a file; ``tmpfs`` files are written to swap only, and never cleaned, ``hugetlb`` ones to nothing."""
        number = len(self.files)
        file = AddressSpace(
            number,
            name,
            self.new_lock(f"i_mmap_lock {name}", LockClass.RMAP, key="i_mmap"),
            tmpfs=tmpfs or hugetlb,
            hugetlb=hugetlb,
        )
        self.files.append(file)
        return file

    def next_callback(self) -> int:
        """Return a number for one callback."""
        self._callbacks += 1
        return self._callbacks

    def next_version(self, words: int = 1) -> int:
        """Return a value never stored before, with ``words - 1`` more after it: stores are unique versions."""
        first = self._versions + 1
        self._versions += words
        return first

    def new_slot(self) -> int:
        """Byte address of an unused 4 KiB slot of the backing store."""
        address = self.config.memory_bytes // 2 + self._slots * PAGE_BYTES
        self._slots += 1
        if address >= self.config.memory_bytes:
            raise HostError(
                f"the backing store is full: {self._slots - 1} slots of 4 KiB are in use"
            )
        return address

    def copy_page(self, destination: int, source: int, *, pfn: int) -> None:
        """Copy 4 KiB at once; ``pfn`` is the frame written or read, for the timeline."""
        self.link.copy(self.sched.now, destination, source, PAGE_WORDS)
        self.sched.log(Row.COPY, pfn=pfn, tag=PAGE_WORDS, a=destination, b=source)

    def fill_page(self, page: Page, value: int) -> None:
        """Store ``value`` in every word of a page."""
        self.link.fill(self.sched.now, page.address, value, PAGE_WORDS)
        self.sched.log(Row.FILL, pfn=page.pfn, tag=PAGE_WORDS, a=page.address, b=value)

    def store(self, mm: MmStruct, vpn: int, address: int, value: int) -> None:
        """Let a CPU store one word at a physical address that it has just translated."""
        self.link.write(self.sched.now, address, (value,))
        self.sched.log(Row.STORE, mm=mm.number, vpn=vpn, pfn=address >> 12, a=address, b=value)
