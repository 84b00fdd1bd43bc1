"""Stages: each mm path of docs/contract.md 1, gone through once on an empty machine, so that its steps can be read."""

from hostmm.stages import huge, pages, ranges, sharing
from hostmm.stages.base import Setting, Stage

__all__ = ["STAGES", "Setting", "Stage"]

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (*pages.STAGES, *ranges.STAGES, *sharing.STAGES, *huge.STAGES)
}
"""Every stage by name, in the order of the contract."""
