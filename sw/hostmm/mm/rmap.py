"""Reverse maps: from a page to the address spaces that map it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hostmm.machine.locks import Lock

if TYPE_CHECKING:
    from hostmm.mm.space import Vma

__all__ = ["AnonVma", "StableNode"]


@dataclass(eq=False)
class AnonVma:
    """``struct anon_vma``: the vmas that may map an anonymous page (shared over fork), and their spinlock."""

    lock: Lock
    vmas: "list[Vma]" = field(default_factory=list)


class StableNode(AnonVma):
    """What a page merged by KSM belongs to: no vma of its own, so that no reverse-map walk finds it (``PageKsm``)."""
