"""The kinds of subscriber that a run can have, by name."""

from hostmm.mutants import IgnoresRangeStart
from hostmm.subscribers.base import DeviceSubscriber
from hostmm.subscribers.sva import Sva, SvaA

__all__ = ["SUBSCRIBERS"]

SUBSCRIBERS: dict[str, type[DeviceSubscriber]] = {
    "sva": Sva,
    "sva-a": SvaA,
    "sva-end": IgnoresRangeStart,
}
"""``sva`` honours brackets, ``sva-a`` follows the CPUs' TLB flushes, ``sva-end`` acts when a bracket closes."""
