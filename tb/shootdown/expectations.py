"""Which violations a policy is known to allow: the N cells that a device of kind ``sva`` (B-type) can show.

From the review of the 2008 patch: S1 to S3 and S17, and the policy table (``sva`` walks the CPU's tables, honours
range start and end, and spins). Everything that is not here is unexpected.
"""

from dataclasses import dataclass

__all__ = ["EXPECTED", "Cell", "expected", "reason"]


@dataclass(frozen=True)
class Cell:
    """A violation that a policy is known to allow: ``invariant`` on ``path``, and why."""

    policy: str
    invariant: str
    path: str
    why: str


EXPECTED = (
    Cell(
        "v9",
        "I6",
        "do_wp_page",
        "short: 2.6.25-rc4 drops the mapcount a few instructions before it clears and notifies, all under the lock",
    ),
    Cell(
        "seed",
        "I4",
        "do_wp_page",
        "the new PTE is set before the notification (S2), which a COW without struct page never gets (S1)",
    ),
    Cell(
        "seed",
        "I4",
        "__xip_unmap",
        "the address can be faulted in again between the unlock and the notification (S17)",
    ),
    Cell(
        "seed",
        "I6",
        "do_wp_page",
        "unbounded: the mapcount is dropped under the lock, the notification comes behind it (S3)",
    ),
)
"""The whole table."""

_CELLS = {(cell.policy, cell.invariant, cell.path): cell for cell in EXPECTED}


def expected(policy: str, invariant: str, path: str) -> bool:
    """Whether ``policy`` is known to break ``invariant`` on ``path``."""
    return (policy, invariant, path) in _CELLS


def reason(policy: str, invariant: str, path: str) -> str | None:
    """Why it does; None where it must not."""
    cell = _CELLS.get((policy, invariant, path))
    return cell.why if cell else None
