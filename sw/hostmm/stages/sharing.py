"""Stages of the paths that let places share a page, or move it under them: KSM, migration."""

from hostmm.machine.scheduler import Steps
from hostmm.paths.ksm import RmapItem, try_to_merge_two_pages
from hostmm.paths.migrate import migrate_page
from hostmm.paths.migrate_vma import migrate_vma
from hostmm.stages.base import FIRST, Setting, Stage

__all__ = ["STAGES"]

_CONTENT = 0x5EED


def _merge(setting: Setting) -> Steps:
    machine, mm = setting.machine, setting.mm
    yield from setting.map_written(2)
    for vpn in (FIRST, FIRST + 1):
        machine.fill_page(setting.page(vpn), _CONTENT)
    items = [RmapItem(mm, vpn) for vpn in (FIRST, FIRST + 1)]
    merged = yield from try_to_merge_two_pages(machine, *items)
    assert merged, "the pages are equal"


def _migrate(setting: Setting) -> Steps:
    yield from setting.map_written()
    moved = yield from migrate_page(setting.machine, setting.page())
    assert moved, "nobody else holds the page"


def _migrate_vma(setting: Setting) -> Steps:
    vma = yield from setting.map_written(2)
    moved = yield from migrate_vma(setting.machine, vma, FIRST, FIRST + 1)
    assert moved == 2, "nobody else holds the pages"


STAGES = (
    Stage(
        "write_protect_page",
        "write_protect_page",
        "1.11",
        "ksmd write-protects a page before it compares it",
        _merge,
    ),
    Stage(
        "replace_page",
        "replace_page",
        "1.11",
        "ksmd puts the page that was merged in the place of an equal one",
        _merge,
    ),
    Stage(
        "unmap_and_move",
        "unmap_and_move",
        "1.12",
        "an anonymous page moves to another frame: try_to_unmap_one (6.6: try_to_migrate_one), copy, remove_migration_pte",
        _migrate,
    ),
    Stage(
        "try_to_migrate_one",
        "try_to_migrate_one",
        "1.12",
        "an anonymous page is unmapped to be moved: a path of its own from 5.14 on",
        _migrate,
    ),
    Stage(
        "remove_migration_pte",
        "remove_migration_pte",
        "1.12",
        "the page that moved is mapped again: nothing was there, so nobody is told",
        _migrate,
    ),
    Stage(
        "migrate_vma",
        "migrate_vma",
        "1.12",
        "a driver moves two anonymous pages by address (4.14 and later): the copies come behind the last notification",
        _migrate_vma,
    ),
    Stage(
        "migrate_vma_collect",
        "migrate_vma_collect",
        "1.12",
        "the first part of it: one bracket around the collection",
        _migrate_vma,
    ),
)
