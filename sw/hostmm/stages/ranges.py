"""Stages of the paths that change ranges of pages; each plays on two pages, so that what repeats shows."""

from hostmm.callers import syscalls
from hostmm.machine.scheduler import Steps
from hostmm.paths.kernel_tables import KERNEL_VPN, vmap, vunmap
from hostmm.paths.soft_dirty import clear_refs_write
from hostmm.paths.truncate import truncate_range
from hostmm.stages.base import FIRST, Setting, Stage

__all__ = ["STAGES"]

_PAGES = 2
_LAST = FIRST + _PAGES - 1
_ELSEWHERE = 0x9000


def _munmap(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.munmap(setting.machine, setting.mm, FIRST, _LAST)


def _dontneed(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.madvise_dontneed(setting.machine, setting.mm, FIRST, _LAST)


def _dontneed_shared(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES, file=setting.machine.new_file("file"), shared=True)
    yield from syscalls.madvise_dontneed(setting.machine, setting.mm, FIRST, _LAST)


def _free(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.madvise_free(setting.machine, setting.mm, FIRST, _LAST)


def _truncate(setting: Setting) -> Steps:
    file = setting.machine.new_file("file")
    yield from setting.map(_PAGES, file=file, shared=True)
    for vpn in range(FIRST, FIRST + _PAGES):
        yield from setting.touch(vpn)
    yield from truncate_range(setting.machine, file, 0, _PAGES - 1)


def _mprotect(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.mprotect(setting.machine, setting.mm, FIRST, _LAST, read=True, write=False)


def _soft_dirty(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from clear_refs_write(setting.machine, setting.mm)


def _mremap(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.mremap(setting.machine, setting.mm, FIRST, _PAGES, _ELSEWHERE, _PAGES)


def _fork(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.fork(setting.machine, setting.mm)


def _fork_fails(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    setting.machine.reclaim.tables_left = 0
    child = yield from syscalls.fork(setting.machine, setting.mm)
    assert child is None, "there is no memory for its tables"


def _exit(setting: Setting) -> Steps:
    yield from setting.map_written(_PAGES)
    yield from syscalls.exit_process(setting.machine, setting.mm)


def _vunmap(setting: Setting) -> Steps:
    yield from vmap(setting.machine, setting.mm, KERNEL_VPN)
    yield from vunmap(setting.machine, setting.mm, KERNEL_VPN)


STAGES = (
    Stage("unmap_region", "unmap_region", "1.7", "munmap of two anonymous pages", _munmap),
    Stage(
        "zap_page_range",
        "zap_page_range",
        "1.7",
        "MADV_DONTNEED of two anonymous pages",
        _dontneed,
    ),
    Stage(
        "zap_page_range, dirty shared",
        "zap_page_range",
        "1.7",
        "MADV_DONTNEED of two pages of a shared file that were written",
        _dontneed_shared,
    ),
    Stage(
        "madvise_free_single_vma",
        "madvise_free_single_vma",
        "1.7",
        "MADV_FREE of two anonymous pages that were written",
        _free,
    ),
    Stage(
        "unmap_mapping_range",
        "unmap_mapping_range",
        "1.7",
        "two mapped pages of a file are truncated",
        _truncate,
    ),
    Stage("mprotect", "mprotect", "1.8", "two anonymous pages become read-only", _mprotect),
    Stage(
        "clear_refs_write",
        "clear_refs_write",
        "1.8",
        "the soft-dirty marks of two written pages are cleared",
        _soft_dirty,
    ),
    Stage("mremap", "mremap", "1.9", "two anonymous pages move", _mremap),
    Stage("fork", "dup_mmap", "1.10", "an address space with two written pages is copied", _fork),
    Stage(
        "fork, out of memory",
        "dup_mmap",
        "1.10",
        "fork finds no memory for the child's tables",
        _fork_fails,
    ),
    Stage("exit_mmap", "exit_mmap", "1.13", "an address space with two pages ends", _exit),
    Stage(
        "pmd_free_pte_page",
        "pmd_free_pte_page",
        "B36",
        "the kernel unmaps a page of its own and frees the table over it: nobody who walks is told",
        _vunmap,
    ),
)
