"""The proofs that ``make formal`` runs, with the faults that each of them must find."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from secmmu.config import MUTANTS
from shootdown.formal import drain, lite, tlb, walk, whole
from shootdown.formal.sby import Proof

__all__ = ["PROOFS"]

_STALE = "from two cycles after the handshake of a command on, no lookup answers with what it invalidated"
_ISOLATION = "an asid gets no other's entry, unless that is global in its group, and no entry of another page"


def _built_in(mutant: str | None) -> str | None:
    """Return the mutant where it is one of the RTL's own."""
    return mutant if mutant in MUTANTS else None


def _associative(claim: str) -> Callable[[str | None], Any]:
    """Return harnesses of the TLB without page array.

    The invariants are for the sound one alone: a mutant must break the property.
    """
    return lambda mutant: tlb.TlbHarness(
        replace(tlb.ASSOCIATIVE, mutant=_built_in(mutant)),
        claim,
        any_asid=mutant == "any-asid",
        invariants=mutant is None,
    )


def _pages(claim: str) -> Callable[[str | None], Any]:
    return lambda mutant: tlb.TlbHarness(
        replace(tlb.PAGES, mutant=_built_in(mutant)), claim, any_asid=mutant == "any-asid"
    )


def _drain(claim: str) -> Callable[[str | None], Any]:
    return lambda mutant: drain.DrainHarness(
        replace(drain.CONFIG, mutant=_built_in(mutant)), claim, endless=mutant == "endless"
    )


def _walk(claim: str) -> Callable[[str | None], Any]:
    return lambda mutant: walk.WalkHarness(claim, mutant)


def _whole(claim: str) -> Callable[[str | None], Any]:
    return lambda mutant: whole.WholeHarness(claim, mutant)


PROOFS = {
    proof.name: proof
    for proof in (
        Proof(
            name="stale",
            configuration="TLB, 2 entries; invalidation unit",
            says=f"TLB and invalidation unit: {_STALE}",
            harness=_associative("stale"),
            depth=2,
            induction=True,
            mutants=("rtl-no-fill-kill", "rtl-no-span-compare", "rtl-no-asid-compare"),
            search=9,
        ),
        Proof(
            name="isolation",
            configuration="TLB, 2 entries; invalidation unit",
            says=f"TLB and invalidation unit: {_ISOLATION}",
            harness=_associative("isolation"),
            depth=2,
            induction=True,
            mutants=("any-asid",),
            search=9,
        ),
        Proof(
            name="stale-pages",
            configuration="TLB, 2 sets + 2; invalidation unit",
            says=f"TLB with a page array: {_STALE}",
            harness=_pages("stale"),
            depth=12,
            at_end=True,
            mutants=("rtl-no-asid-compare", "rtl-no-fill-kill"),
            search=12,
        ),
        Proof(
            name="isolation-pages",
            configuration="TLB, 2 sets + 2; invalidation unit",
            says=f"TLB with a page array: {_ISOLATION}",
            harness=_pages("isolation"),
            depth=12,
            at_end=True,
            mutants=("any-asid",),
            search=12,
        ),
        Proof(
            name="drained",
            configuration="invalidation unit, 2 commands; uses",
            says="a command is not answered DRAINED before a use that it overlaps has ended",
            harness=_drain("drained"),
            depth=7,
            at_end=True,
            mutants=("rtl-no-drain", "rtl-no-span-compare", "rtl-no-asid-compare"),
            search=7,
        ),
        Proof(
            name="command-progress",
            configuration="invalidation unit, 2 commands; uses",
            says="with nothing in flight a command is INVALIDATED within 5 cycles and DRAINED within 6",
            harness=_drain("progress"),
            depth=12,
            mutants=("endless",),
            search=12,
        ),
        Proof(
            name="permission",
            configuration="walker, 1 walk, Sv39",
            says="the walker grants nothing that the leaf it read does not permit",
            harness=_walk("permission"),
            depth=12,
            mutants=("user-blind",),
            search=9,
        ),
        Proof(
            name="walk-progress",
            configuration="walker, 1 walk, Sv39",
            says="a walk is answered within 12 cycles when memory answers in the next one",
            harness=_walk("progress"),
            depth=18,
            mutants=("endless",),
            search=19,
        ),
        Proof(
            name="walk-axi",
            configuration="walker, 1 walk, Sv39, Svadu",
            says="the walker's port keeps the rules of AXI, A/D updates included",
            harness=_walk("axi"),
            depth=12,
            at_end=True,
            mutants=("hasty",),
            search=8,
        ),
        Proof(
            name="lite",
            configuration="register file",
            says="the register file's port keeps the rules of AXI4-Lite, and answers within 6 cycles",
            harness=lite.LiteHarness,
            depth=14,
            at_end=True,
            mutants=("hasty",),
            search=8,
        ),
        Proof(
            name="ports",
            configuration="whole MMU, 2 ids, 2 waiters",
            says="whole MMU: the ports of device, memory, walker and host keep the rules of AXI",
            harness=_whole("ports"),
            depth=12,
            at_end=True,
            mutants=("impatient", "crossing", "curt", "hurried", "forward", "shy"),
            search=12,
        ),
        Proof(
            name="fresh",
            says="whole MMU: with INVALIDATED no address is first presented that comes of an older PTE or drop-in",
            configuration="whole MMU, 2 ids, 2 waiters",
            harness=_whole("fresh"),
            depth=12,
            at_end=True,
            mutants=("rtl-no-epoch-compare",),
            search=12,
        ),
        Proof(
            name="completion",
            configuration="whole MMU, 2 ids, 2 waiters",
            says="whole MMU: what is offered in the first cycle is answered within 44 when all others answer at once",
            harness=_whole("completion"),
            depth=whole.ANSWERED_WITHIN + 1,
            at_end=True,
            mutants=("forgetful",),
            search=whole.ANSWERED_WITHIN + 1,
        ),
    )
}
"""By name."""
