"""Stages of the paths that change one page: the six of the seed patch."""

from hostmm.callers import syscalls
from hostmm.callers.filemap import xip_file_write
from hostmm.callers.gup import get_user_page, put_user_page
from hostmm.callers.shrink import shrink_page
from hostmm.machine.scheduler import Steps
from hostmm.mm.pagetable import file_entry
from hostmm.paths.page_mkclean import page_mkclean
from hostmm.paths.page_referenced import page_referenced
from hostmm.paths.try_to_unmap import try_to_unmap
from hostmm.stages.base import FIRST, Setting, Stage
from secmmu.layouts import FrameKind

__all__ = ["STAGES"]


def _xip_unmap(setting: Setting) -> Steps:
    file = setting.machine.new_file("xip")
    file.holes.add(0)
    yield from setting.map(file=file)
    yield from setting.touch()
    yield from xip_file_write(setting.machine, file, 0)


def _copy(setting: Setting) -> Steps:
    yield from setting.map(file=setting.machine.new_file("file"))
    yield from setting.touch()
    yield from setting.touch(write=True)


def _reuse(setting: Setting) -> Steps:
    """Write what fork has write-protected, when the child is gone."""
    yield from setting.map_written()
    child = yield from syscalls.fork(setting.machine, setting.mm)
    yield from syscalls.exit_process(setting.machine, child)
    yield from setting.touch(write=True)


def _copy_without_page(setting: Setting) -> Steps:
    machine = setting.machine
    frame = machine.frames.alloc(FrameKind.USER)
    vma = yield from setting.map()
    vma.pfnmap, vma.pgoff = True, frame.pfn
    yield from setting.touch()
    yield from setting.touch(write=True)


def _page_referenced_old(setting: Setting) -> Steps:
    yield from setting.map_written()
    setting.age(FIRST)
    yield from setting.locked(page_referenced, setting.page())


def _page_referenced(setting: Setting) -> Steps:
    yield from setting.map_written()
    yield from setting.locked(page_referenced, setting.page())


def _page_mkclean(setting: Setting) -> Steps:
    yield from setting.map_written(file=setting.machine.new_file("file"), shared=True)
    yield from setting.locked(page_mkclean, setting.page())


def _try_to_unmap(setting: Setting) -> Steps:
    yield from setting.map_written()
    setting.age(FIRST)
    setting.machine.swap.add_to_swap(setting.page())
    yield from setting.locked(try_to_unmap, setting.page())


def _reclaim(setting: Setting) -> Steps:
    """Reclaim a page that two CPUs may have in their TLBs."""
    yield from setting.map_written()
    setting.age(FIRST)
    freed = yield from shrink_page(setting.machine, setting.page())
    assert freed, "nobody uses the page"


def _try_to_unmap_cluster(setting: Setting) -> Steps:
    """Three PTEs: nonlinear and dirty, young, linear and clean."""
    file = setting.machine.new_file("tmpfs", tmpfs=True)
    vma = yield from setting.map(3, file=file, shared=True)
    vma.nonlinear = True
    file.vmas.remove(vma)
    file.nonlinear.append(vma)
    setting.mm.tables.alloc(FIRST)
    setting.mm.tables.set(FIRST, file_entry(2))
    yield from setting.touch(write=True)
    yield from setting.touch(FIRST + 1)
    yield from setting.touch(FIRST + 2)
    setting.age(FIRST, FIRST + 2)
    yield from setting.locked(try_to_unmap, setting.page())


def _get_user_pages(setting: Setting) -> Steps:
    yield from setting.map_written()
    page = yield from get_user_page(setting.machine, setting.mm, FIRST, write=True)
    yield from put_user_page(setting.machine, page, dirty=True)


STAGES = (
    Stage(
        "__xip_unmap",
        "__xip_unmap",
        "1.1",
        "a hole of an execute-in-place file, mapped and read, gets a block",
        _xip_unmap,
    ),
    Stage(
        "do_wp_page",
        "do_wp_page",
        "1.2",
        "a write to a page of a file that is mapped privately copies it",
        _copy,
    ),
    Stage(
        "do_wp_page, in place",
        "do_wp_page",
        "1.2",
        "a write to an anonymous page that nobody else has only makes its PTE writable",
        _reuse,
    ),
    Stage(
        "do_wp_page, no struct page",
        "do_wp_page",
        "1.2",
        "a write to a raw frame that is mapped privately copies it: the old page is NULL",
        _copy_without_page,
    ),
    Stage(
        "page_referenced_one, old",
        "page_referenced_one",
        "1.3",
        "reclaim asks of a page that no CPU has used",
        _page_referenced_old,
    ),
    Stage(
        "page_referenced_one",
        "page_referenced_one",
        "1.3",
        "reclaim asks whether a page that was used was used",
        _page_referenced,
    ),
    Stage(
        "page_mkclean_one",
        "page_mkclean_one",
        "1.4",
        "writeback cleans a page of a shared file that was written",
        _page_mkclean,
    ),
    Stage(
        "try_to_unmap_one",
        "try_to_unmap_one",
        "1.5",
        "reclaim unmaps an old, dirty anonymous page to swap",
        _try_to_unmap,
    ),
    Stage(
        "try_to_unmap_one, batched",
        "try_to_unmap_one",
        "1.5",
        "the same by a scan of the LRU list, which puts the flush off (TTU_BATCH_FLUSH)",
        _reclaim,
        needs="try_to_unmap_flush",
    ),
    Stage(
        "try_to_unmap_flush",
        "try_to_unmap_flush",
        "1.5",
        "one flush for all that the scan has unmapped, before a dirty page is written and before any is freed",
        _reclaim,
    ),
    Stage(
        "try_to_unmap_cluster",
        "try_to_unmap_cluster",
        "1.6",
        "reclaim sweeps three PTEs of a nonlinear mapping: nonlinear and dirty, young, linear and clean",
        _try_to_unmap_cluster,
    ),
    Stage(
        "get_user_pages",
        "get_user_pages",
        "S1",
        "a driver without a notifier pins a page: nobody is told, and the frame stays",
        _get_user_pages,
    ),
)
