"""The kinds of subscriber that a run can have, by name."""

from hostmm.mutants import IgnoresRangeStart
from hostmm.subscribers.ats import Ats
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.gru import Gru
from hostmm.subscribers.kvm import Kvm
from hostmm.subscribers.odp import Odp, StallingOdp
from hostmm.subscribers.pinned import Pinned
from hostmm.subscribers.sva import Sva, SvaA

__all__ = ["SUBSCRIBERS"]

SUBSCRIBERS: dict[str, type[DeviceSubscriber]] = {
    "sva": Sva,
    "sva-a": SvaA,
    "sva-end": IgnoresRangeStart,
    "ats": Ats,
    "kvm": Kvm,
    "gru": Gru,
    "odp": Odp,
    "odp-stall": StallingOdp,
    "pinned": Pinned,
}
"""``sva`` honours brackets, ``sva-a`` follows the CPUs' TLB flushes, ``sva-end`` acts when a bracket closes; ``ats``
keeps what it has cached until it is told; ``kvm``, ``gru`` and ``odp`` serve the device's faults themselves,
``odp-stall`` while the access waits in the MMU; ``pinned`` asks for no notification and pins pages."""
