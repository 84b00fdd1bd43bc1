"""Stages of what happens to 2 MiB at a time: collapse, split, unmap, move."""

from hostmm.callers import syscalls
from hostmm.machine.scheduler import Steps
from hostmm.paths.collapse_huge_page import collapse_huge_page
from hostmm.paths.huge_split import split_huge_pmd
from hostmm.paths.migrate_huge import migrate_misplaced_transhuge_page
from hostmm.stages.base import FIRST, Setting, Stage

__all__ = ["STAGES"]

_PAGES = 512
_FRAMES = 1600
_ELSEWHERE = 0x9000


def _collapse(setting: Setting) -> Steps:
    """Two of the pages have been written; the others become zeros."""
    yield from setting.map(_PAGES)
    for vpn in (FIRST, FIRST + 1):
        yield from setting.touch(vpn, write=True)
    done = yield from collapse_huge_page(setting.machine, setting.mm, FIRST)
    assert done, "nobody else holds the pages"


def _split(setting: Setting) -> Steps:
    yield from _collapse(setting)
    vma = setting.mm.find_vma(FIRST)
    assert vma is not None
    yield from split_huge_pmd(setting.machine, vma, FIRST)


def _migrate(setting: Setting) -> Steps:
    yield from _collapse(setting)
    vma = setting.mm.find_vma(FIRST)
    assert vma is not None
    moved = yield from migrate_misplaced_transhuge_page(setting.machine, vma, FIRST)
    assert moved, "nobody else holds the pages"


def _munmap(setting: Setting) -> Steps:
    yield from _collapse(setting)
    yield from syscalls.munmap(setting.machine, setting.mm, FIRST, FIRST + _PAGES - 1)


def _free(setting: Setting) -> Steps:
    yield from _collapse(setting)
    yield from syscalls.madvise_free(setting.machine, setting.mm, FIRST, FIRST + _PAGES - 1)


def _mremap(setting: Setting) -> Steps:
    yield from _collapse(setting)
    yield from syscalls.mremap(setting.machine, setting.mm, FIRST, _PAGES, _ELSEWHERE, _PAGES)


def _mremap_table(setting: Setting) -> Steps:
    yield from setting.map(_PAGES)
    for vpn in (FIRST, FIRST + 1):
        yield from setting.touch(vpn, write=True)
    yield from syscalls.mremap(setting.machine, setting.mm, FIRST, _PAGES, _ELSEWHERE, _PAGES)


def _hugetlb_cow(setting: Setting) -> Steps:
    yield from setting.map(_PAGES, file=setting.machine.new_file("huge", hugetlb=True))
    yield from setting.touch()
    yield from setting.touch(write=True)


def _hugetlb_fork(setting: Setting) -> Steps:
    yield from _hugetlb_cow(setting)
    yield from syscalls.fork(setting.machine, setting.mm)


STAGES = (
    Stage(
        "mremap, 2 MiB of PTEs",
        "mremap",
        "1.9",
        "512 pages move, two of which have been written: 6.6 moves their table",
        _mremap_table,
        _FRAMES,
    ),
    Stage(
        "collapse_huge_page",
        "collapse_huge_page",
        "1.14",
        "khugepaged collapses 512 pages, two of which have been written, into a 2 MiB leaf",
        _collapse,
        _FRAMES,
    ),
    Stage(
        "split_huge_page",
        "split_huge_page",
        "1.14",
        "a 2 MiB leaf is split, as until 4.4: marked, then replaced",
        _split,
        _FRAMES,
    ),
    Stage(
        "__split_huge_pmd",
        "__split_huge_pmd",
        "1.14",
        "a 2 MiB leaf is split in one bracket",
        _split,
        _FRAMES,
    ),
    Stage(
        "migrate_misplaced_transhuge_page",
        "migrate_misplaced_transhuge_page",
        "1.12",
        "NUMA balancing moves a 2 MiB leaf, which mprotect's path has closed, to other frames (3.8 to 5.13)",
        _migrate,
        _FRAMES,
    ),
    Stage(
        "unmap_region, 2 MiB leaf",
        "unmap_region",
        "1.14",
        "munmap of a 2 MiB leaf",
        _munmap,
        _FRAMES,
        "collapse_huge_page",
    ),
    Stage(
        "madvise_free_single_vma, 2 MiB leaf",
        "madvise_free_single_vma",
        "1.14",
        "MADV_FREE of a 2 MiB leaf, which is never seen as nothing (58ceeb6bec86)",
        _free,
        _FRAMES,
    ),
    Stage(
        "mremap, 2 MiB leaf",
        "mremap",
        "1.9",
        "a 2 MiB leaf moves",
        _mremap,
        _FRAMES,
        "collapse_huge_page",
    ),
    Stage(
        "hugetlb_cow",
        "hugetlb_cow",
        "S16",
        "a write to a huge page of a file that is mapped privately copies it (PGL: hugetlb_instantiation_mutex)",
        _hugetlb_cow,
        _FRAMES,
    ),
    Stage(
        "copy_hugetlb_page_range",
        "copy_hugetlb_page_range",
        "1.10",
        "an address space with a written huge page is copied",
        _hugetlb_fork,
        _FRAMES,
    ),
)
