"""The kinds of subscriber that a run can have, by name."""

from hostmm.mutants import IgnoresRangeStart
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.odp import Odp, StallingOdp
from hostmm.subscribers.pinned import Pinned
from hostmm.subscribers.sva import Sva, SvaA

__all__ = ["STALLING", "SUBSCRIBERS"]

SUBSCRIBERS: dict[str, type[DeviceSubscriber]] = {
    "sva": Sva,
    "sva-a": SvaA,
    "sva-end": IgnoresRangeStart,
    "gru": Gru,
    "kvm": Kvm,
    "odp": Odp,
    "odp-stall": StallingOdp,
    "pinned": Pinned,
}
"""``sva`` honours brackets, ``sva-a`` follows the CPUs' TLB flushes, ``sva-end`` acts when a bracket closes; the others
are the modules of their names, ``odp-stall`` the NIC that keeps an access that faults."""

STALLING = ("gru", "odp-stall")
"""Kinds of which faulting accesses wait in the MMU."""
