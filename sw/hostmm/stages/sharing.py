"""Stages of the paths that let places share a page, or move it under them: KSM."""

from hostmm.paths.ksm import RmapItem, try_to_merge_two_pages
from hostmm.scheduler import Steps
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
)
