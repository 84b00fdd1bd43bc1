"""The six paths: what they leave, verdicts, references; their steps are held against the contract in test_steps."""

import pytest

from hostmm.audit import audit, check_counts
from hostmm.callers.faults import touch
from hostmm.callers.filemap import xip_file_write
from hostmm.errors import HostError
from hostmm.machine.locks import Acquire, Signal, Wait
from hostmm.machine.scheduler import Gate
from hostmm.machine.timeline import Notification, Row
from hostmm.machine.vocabulary import passages
from hostmm.mm.pages import page_remove_rmap
from hostmm.mm.pagetable import PTE_A, PTE_D, PTE_V, PTE_W, file_entry, is_file_entry, pte_pfn
from hostmm.paths.fork import dup_mmap
from hostmm.paths.page_mkclean import page_mkclean
from hostmm.paths.page_referenced import page_referenced
from hostmm.paths.try_to_unmap import SwapResult, try_to_unmap
from hostmm.policies import POLICIES, SEED, V9, Point
from hostmm.subscribers.sva import Sva
from secmmu.layouts import FrameKind
from tests.sw.hosts import Host

VPN = 0x400


def steps(host, path):
    """The steps of each passage through a path."""
    return [" ".join(passage.words) for passage in passages(host.machine.timeline, path)]


def kernels(path):
    """Parameter ``policy`` of a test: every one whose kernel had the path."""
    names = [policy.name for policy in POLICIES.values() if policy.has(path)]
    return pytest.mark.parametrize("policy", names)


class Space:
    """An address space bound to the device, with one vma."""

    def __init__(self, policy, *, file=None, pages=1, **vma):
        self.host = Host(policy=POLICIES[policy] if isinstance(policy, str) else policy)
        self.machine = self.host.machine
        self.mm = self.machine.new_mm()
        if file is None:
            self.file = None
            self.vma = self.host.anonymous(self.mm, VPN, pages)
        else:
            self.file = self.machine.new_file("f", tmpfs=file == "tmpfs")
            self.vma = self.host.mapping(self.mm, VPN, pages, self.file, **vma)
            (self.file.nonlinear if self.vma.nonlinear else self.file.vmas).append(self.vma)
        self.mm.insert(self.vma)

    def run(self, *threads):
        """Bind the device, run the threads one after another, audit."""

        def main():
            yield from Sva.bind(self.machine, self.mm)
            for thread in threads:
                yield from thread
            yield from audit(self.machine)

        self.host.run(main())

    def race(self, path, at, thread, other):
        """Run ``thread``, stopped at a step of ``path`` until ``other`` has run, then audit."""
        gate = Gate("C0", path, at, Signal("reached"), Signal("opened"))
        self.machine.sched.gates.append(gate)

        def second():
            yield Wait(gate.reached)
            yield from other
            self.machine.sched.fire(gate.opened)

        self.machine.sched.spawn("C0", thread)
        self.host.run(second())
        self.host.run(audit(self.machine))

    def touch(self, write=False, vpn=VPN):
        pte = yield from touch(self.machine, self.mm, vpn, write=write)
        assert pte is not None

    def page(self, vpn=VPN):
        return self.machine.frames.pages[pte_pfn(self.mm.tables.get(vpn))]

    def age(self, *vpns):
        """Make PTEs old without a path."""
        for vpn in vpns:
            self.mm.tables.set(vpn, self.mm.tables.get(vpn) & ~PTE_A)
        yield "pte_write"

    def locked(self, operation, results):
        """Run ``operation(machine, page)`` under the page lock, with a reference."""
        page = self.page()
        self.machine.frames.get(page)
        yield Acquire(page.lock)
        results.append((yield from operation(self.machine, page)))
        self.machine.sched.release(page.lock)
        self.machine.frames.put(page)

    def swapped(self, results):
        """Unmap an anonymous page to swap."""
        self.machine.swap.add_to_swap(self.page())
        yield from self.locked(try_to_unmap, results)


# --- what a path leaves --------------------------------------------------------------------------------------


@kernels("__xip_unmap")
def test_a_hole_that_gets_a_block_is_unmapped(policy):
    space = Space(policy, file="disk", shared=False)
    space.file.holes.add(0)
    space.run(space.touch(), xip_file_write(space.machine, space.file, 0))
    assert not space.file.holes
    assert space.machine.sparse_page.mapcount == 0


@kernels("page_referenced_one")
def test_page_referenced_leaves_the_pte_old(policy):
    space, results = Space(policy), []
    space.run(space.touch(), space.locked(page_referenced, results))
    assert results == [1]
    assert not space.mm.tables.get(VPN) & PTE_A


@kernels("page_mkclean_one")
def test_page_mkclean_leaves_the_pte_clean_and_read_only(policy):
    space, results = Space(policy, file="disk"), []
    space.run(space.touch(write=True), space.locked(page_mkclean, results))
    assert results == [1]
    assert not space.mm.tables.get(VPN) & (PTE_W | PTE_D)


@kernels("try_to_unmap_one")
def test_an_old_page_is_unmapped(policy):
    space, results = Space(policy), []
    space.run(space.touch(write=True), space.age(VPN), space.swapped(results))
    assert results == [SwapResult.SUCCESS]


@kernels("try_to_unmap_cluster")
def test_a_cluster_keeps_the_offsets_of_nonlinear_ptes_alone(policy):
    """Three PTEs: nonlinear and dirty, young, linear and clean."""
    space, results = Space(policy, file="tmpfs", pages=3), []
    make_nonlinear(space)
    space.run(
        space.touch(write=True),
        space.touch(vpn=VPN + 1),
        space.touch(vpn=VPN + 2),
        space.age(VPN, VPN + 2),
        space.locked(try_to_unmap, results),
    )
    assert software(space, VPN) == 2
    assert space.mm.tables.get(VPN + 2) == 0


def make_nonlinear(space):
    """Turn the vma nonlinear; its first page maps offset 2, as remap_file_pages would."""
    space.vma.nonlinear = True
    space.file.vmas.remove(space.vma)
    space.file.nonlinear.append(space.vma)
    space.mm.tables.alloc(VPN)
    space.mm.tables.set(VPN, file_entry(2))


def software(space, vpn):
    word = space.mm.tables.get(vpn)
    assert is_file_entry(word)
    return word >> 3


def calls(space):
    return [Notification(row["tag"]) for row in space.host.rows(Row.NOTIFY_BEGIN)]


def bracket(policy, path):
    """What a policy calls on a path whether or not there is a PTE to change."""
    opened = [policy.call(path, point) for point in (Point.START, Point.END)]
    return [call for call in opened if call is not None]


# --- verdicts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "verdict", "order"),
    [
        (V9, SwapResult.FAIL, "PTL YNG CFY PTU"),
        (SEED, SwapResult.SUCCESS, "PTL FC CLR DRT RSS SET(swap) RM- PUT PTU INVP"),
    ],
)
def test_only_v9_keeps_a_page_used_since_reclaim_looked(policy, verdict, order):
    space, results = Space(policy), []
    space.run(space.touch(write=True), space.swapped(results))
    assert results == [verdict]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_locked_mapping_stays_and_at_most_a_bracket_is_notified(policy):
    space, results = Space(policy), []
    space.vma.locked = True
    space.run(space.touch(), space.locked(page_referenced, results), space.swapped(results))
    assert results == [1, SwapResult.FAIL]
    assert space.mm.tables.get(VPN) & PTE_A
    assert calls(space) == bracket(policy, "try_to_unmap_one")


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_page_mkclean_of_a_clean_page_notifies_at_most_a_bracket(policy):
    space, results = Space(policy, file="disk"), []
    space.run(space.touch(), space.locked(page_mkclean, results))
    assert results == [0]
    assert calls(space) == bracket(policy, "page_mkclean_one")


@pytest.mark.parametrize("file", [None, "disk", "tmpfs"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_write_in_place_notifies_nobody_and_makes_dirty(policy, file):
    space = Space(policy, file=file)

    def protect():
        space.mm.tables.set(VPN, space.mm.tables.get(VPN) & ~(PTE_W | PTE_D))
        yield "pte_write"

    space.run(space.touch(), protect(), space.touch(write=True))
    assert space.mm.tables.get(VPN) & (PTE_W | PTE_D) == PTE_W | PTE_D
    assert len(steps(space.host, "do_wp_page")) == 1
    assert space.page().dirty is (file is not None)
    assert not space.host.rows(Row.NOTIFY_BEGIN)


@pytest.mark.parametrize(("policy", "calls"), [(V9, 1), (SEED, 0)])
def test_a_copy_of_a_frame_without_struct_page_is_notified_by_v9_alone(policy, calls):
    space = Space(policy)
    frame = space.machine.frames.alloc(FrameKind.USER)
    space.machine.fill_page(frame, 7)
    space.vma.pfnmap, space.vma.pgoff = True, frame.pfn
    space.run(space.touch(), space.touch(write=True))
    assert len(space.host.rows(Row.NOTIFY_BEGIN)) == calls
    assert space.page() is not frame
    assert space.host.word(space.page().address) == 7


def test_a_cluster_sweep_goes_on_where_the_last_one_ended():
    space, results = Space(SEED, file="tmpfs", pages=80), []
    make_nonlinear(space)
    pages = range(VPN + 1, VPN + 80)
    space.run(
        *(space.touch(vpn=vpn) for vpn in [VPN, *pages]),
        space.age(VPN, *pages),
        space.locked(try_to_unmap, results),
        space.touch(vpn=VPN),
        space.locked(try_to_unmap, results),
    )
    assert results[0] is SwapResult.SUCCESS, "the page is in the first cluster"
    number = space.machine.timeline.path("try_to_unmap_cluster")
    brackets = [
        (row["vpn"] - VPN, row["a"] - VPN)
        for row in space.host.rows(Row.NOTIFY_BEGIN)
        if row["path"] == number and row["tag"] == Notification.RANGE_START
    ]
    assert brackets == [(0, 31), (32, 63)]


def test_nonlinear_mappings_that_are_locked_stay():
    space, results = Space(V9, file="tmpfs"), []
    make_nonlinear(space)
    space.vma.locked = True
    space.run(space.touch(), space.locked(try_to_unmap, results))
    assert results == [SwapResult.FAIL]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_reclaim_unmaps_parent_and_child_and_both_come_back(policy):
    space, results, children = Space(policy), [], []

    def fork():
        children.append((yield from dup_mmap(space.machine, space.mm)))

    def old():
        for mm in (space.mm, children[0]):
            mm.tables.set(VPN, mm.tables.get(VPN) & ~PTE_A)
        yield "pte_write"

    def back():
        slot = space.machine.swap.uses.copy()
        assert list(slot.values()) == [3], "two PTEs and the cache"
        yield from touch(space.machine, children[0], VPN, write=True)
        yield from space.touch(write=True)

    space.run(space.touch(write=True), fork(), old(), space.swapped(results), back())
    assert results == [SwapResult.SUCCESS]
    assert space.mm.tables.get(VPN) & PTE_V
    assert pte_pfn(space.mm.tables.get(VPN)) != pte_pfn(children[0].tables.get(VPN))


@pytest.mark.parametrize(("holder", "referenced", "young"), [(False, 1, 0), (True, 1, PTE_A)])
def test_a_file_page_that_somebody_else_has_locked_counts_as_used(holder, referenced, young):
    space, results = Space(V9, file="disk"), []
    space.run(space.touch())
    page = space.page()

    def ask():
        yield 1_000
        results.append((yield from page_referenced(space.machine, page)))

    def hold():
        if holder:
            yield Acquire(page.lock)
            yield 100_000
            space.machine.sched.release(page.lock)

    space.host.run(hold(), ask())
    assert results == [referenced]
    assert space.mm.tables.get(VPN) & PTE_A == young
    assert not page.lock.held


def test_a_shared_locked_mapping_counts_without_a_look():
    space, results = Space(V9, file="disk"), []
    space.vma.locked = True
    space.run(space.touch(), space.locked(page_referenced, results))
    assert results == [1]
    assert not steps(space.host, "page_referenced_one")


def test_a_page_that_nobody_maps_shows_only_its_own_flag():
    space, results = Space(V9, file="disk"), []
    space.run(space.touch())
    page = space.page()
    page.referenced = True

    def twice():
        yield Acquire(page.lock)
        yield from try_to_unmap(space.machine, page)
        space.machine.sched.release(page.lock)
        results.append((yield from page_referenced(space.machine, page)))
        results.append((yield from page_referenced(space.machine, page)))

    space.host.run(space.age(VPN))
    space.host.run(twice())
    assert results == [1, 0]


def test_swap_keeps_one_place_a_page_and_gives_it_back():
    space = Space(V9)
    space.run(space.touch())
    swap, page, frames = space.machine.swap, space.page(), space.machine.frames
    slot = swap.add_to_swap(page)
    with pytest.raises(HostError, match="cached already"):
        swap.add_to_cache(page, slot)
    page.dirty = False
    frames.get(page)
    assert not swap.remove_exclusive(page), "a PTE refers to it too"
    frames.put(page)
    assert swap.remove_exclusive(page)
    assert not swap.remove_exclusive(page)
    assert page.dirty, "its copy in swap is gone"
    assert not swap.uses
    check_counts(space.machine)


def test_what_must_not_happen_to_a_page_is_refused():
    space, results = Space(SEED), []
    with pytest.raises(HostError, match="unmapped without a place in swap"):
        space.run(space.touch(), space.locked(try_to_unmap, results))
    space = Space(SEED, file="disk")
    space.run(space.touch())
    page = space.page()
    page_remove_rmap(space.machine, page)
    with pytest.raises(HostError, match="mapcount would become negative"):
        page_remove_rmap(space.machine, page)


def test_the_sparse_page_must_never_be_dirty():
    space = Space(V9, file="disk", shared=False)
    space.file.holes.add(0)

    def scribble():
        space.mm.tables.set(VPN, space.mm.tables.get(VPN) | PTE_D)
        yield "pte_write"

    with pytest.raises(HostError, match="sparse page has been written"):
        space.run(space.touch(), scribble(), xip_file_write(space.machine, space.file, 0))


# --- races: every reference comes back -------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_copy_that_loses_the_race_drops_what_it_took(policy):
    space = Space(policy, file="disk", shared=False)
    space.run(space.touch())
    space.race("do_wp_page", "copy_page", space.touch(write=True), space.touch(write=True))
    results = [row["a"] for row in space.host.rows(Row.PATH_END)]
    assert sorted(results) == [0, 1]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_page_mkwrite_that_finds_another_pte_drops_its_reference(policy):
    space, results = Space(policy, file="disk"), []
    space.run(space.touch(), space.age(VPN))
    space.race(
        "do_wp_page", "page_mkwrite", space.touch(write=True), space.locked(try_to_unmap, results)
    )
    assert results == [SwapResult.SUCCESS]
    assert space.mm.tables.get(VPN) & PTE_W


@pytest.mark.parametrize("path", ["do_wp_page", "page_mkclean_one"])
def test_rights_last_until_the_callback_has_returned(path):
    space, results = Space(SEED, file="disk", shared=path == "page_mkclean_one"), []
    space.run(space.touch(write=path == "page_mkclean_one"))
    page, bit, seen = space.page(), 1 << space.mm.number, []
    rights = "write_rights" if path == "page_mkclean_one" else "read_rights"

    def look():
        seen.append(getattr(page, rights) & bit)
        yield "pte_read"

    thread = (
        space.touch(write=True) if path == "do_wp_page" else space.locked(page_mkclean, results)
    )
    space.race(path, "unlocked", thread, look())
    assert seen == [bit], "before the callback the old translation is still within the contract"
    assert not getattr(page, rights) & bit


# --- the audit finds what is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda space: space.machine.frames.get(space.page()), "refcount is 2, but it has 1 users"),
        (lambda space: setattr(space.page(), "mapcount", 0), "mapcount is 0, but 1 PTEs map it"),
        (lambda space: space.mm.vmas.clear(), "a page outside every vma"),
        (lambda space: space.machine.swap.uses.update({9: 2}), "swap slot 0x9: use count is 2"),
    ],
)
def test_the_audit_names_what_is_out_of_balance(break_it, message):
    space = Space(V9)
    space.run(space.touch())
    break_it(space)
    with pytest.raises(HostError, match=message):
        check_counts(space.machine)


def test_the_audit_reads_the_tables_that_the_hardware_walks():
    space = Space(V9)
    space.run(space.touch())
    leaf = next(
        pfn
        for pfn, words in space.mm.tables.words().items()
        if pte_pfn(max(words)) == space.page().pfn
    )
    space.host.model.memory[(leaf << 9) + 5] = 1
    with pytest.raises(HostError, match=f"frame {leaf:#x}: word 5 of the page table is 0x1"):
        space.host.run(audit(space.machine))
