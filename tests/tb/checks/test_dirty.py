"""I8: nothing that was written is lost when a page is unmapped."""

from hostmm.machine.timeline import Row
from hostmm.policies import V9
from tests.tb.timelines import Scene

MM, VPN, PFN, SLOT = 1, 0x10, 0x20, 0x8000
VA = VPN << 12


def file_page(scene: Scene) -> None:
    """A clean page of a file, mapped writable and written through its PTE."""
    scene.alloc(PFN)
    scene.fill_page(PFN, 0)
    scene.pte_set(MM, VPN, PFN, writable=True)


def unmap(scene: Scene, path: str, *, transfers: bool, anonymous: bool = False) -> None:
    """The path clears the dirty PTE, and tells the page of it or not."""
    with scene.at(100).path(path):
        scene.pte_clear(MM, VPN, PFN, writable=True)
        if transfers:
            scene.row(Row.PAGE_DIRTY, pfn=PFN, tag=1, a=1)
        scene.row(Row.MAPCOUNT, pfn=PFN, tag=0, a=0, c=int(anonymous))


def test_the_dirty_bit_is_transferred() -> None:
    """As it should be, on a path of reclaim and on one of the owner."""
    for path in ("try_to_unmap_one", "unmap_region"):
        scene = Scene(V9)
        file_page(scene)
        unmap(scene, path, transfers=True)
        assert scene.violations("I8") == []


def test_the_dirty_bit_is_dropped_with_the_pte() -> None:
    """Bug B24; an anonymous page needs no such thing."""
    for anonymous, broken in ((False, 1), (True, 0)):
        scene = Scene(V9)
        file_page(scene)
        unmap(scene, "unmap_region", transfers=False, anonymous=anonymous)
        found = scene.violations("I8")
        assert len(found) == broken
        assert all((v.path, v.cycle, v.expected) == ("unmap_region", 100, False) for v in found)


def reclaimed(scene: Scene, *, saved: int | None, path: str = "try_to_unmap_one") -> None:
    """A device write that ends at 90, an unmap at 100, perhaps a copy to the store, and the end of the frame."""
    file_page(scene)
    scene.fill(20, MM, VPN, PFN, entry=3, writable=True)
    scene.at(80).device_write(82, 90, MM, VA, PFN, 777)
    if saved is not None and saved < 100:
        scene.at(saved).write_out(SLOT, PFN)
    unmap(scene, path, transfers=True)
    if saved is not None and saved > 100:
        scene.at(saved).write_out(SLOT, PFN)
    scene.at(200).row(Row.RECLAIMED, pfn=PFN)


def test_written_out_before_it_is_freed() -> None:
    """The device's write is in the store."""
    scene = Scene(V9)
    reclaimed(scene, saved=150)
    assert scene.violations("I8") == []


def test_freed_without_having_been_written_out() -> None:
    """The copy is older than the write, or there is none."""
    for saved in (85, None):
        scene = Scene(V9)
        reclaimed(scene, saved=saved)
        (violation,) = scene.violations("I8")
        assert violation.cycle == 200
        assert "the store of cycle 90 was never saved" in violation.what


def test_what_the_owner_unmapped_is_nobodys() -> None:
    """Reclaim finds a page that munmap has let go."""
    scene = Scene(V9)
    reclaimed(scene, saved=None, path="unmap_region")
    assert scene.violations("I8") == []
