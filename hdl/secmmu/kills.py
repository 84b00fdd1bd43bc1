"""What an invalidation speaks of: address spaces, entries, spans (docs/secmmu.md, point 4)."""

from amaranth.hdl import Const, Value
from amaranth.lib import data

from secmmu.config import SecmmuConfig
from secmmu.page_numbers import below, span_last

__all__ = ["is_killed", "killed_asid", "killed_sharing", "may_kill_asid"]


def killed_asid(kill: data.View, *, asid: Value, group: Value, shared: Value) -> Value:
    """Return whether ``kill`` speaks of this address space: its own asid, or a global page of its group."""
    named = (kill.asid == asid) | (shared & (kill.group == group))
    return kill.valid & (kill.everything | named) & ~(shared & kill.keep_global)


def killed_sharing(kill: data.View, *, asid: Value, group: Value) -> dict[str, Value]:
    """Return whether ``kill`` speaks of entries of either kind that serve this address space: a SharingLayout."""
    return {
        name: killed_asid(kill, asid=asid, group=group, shared=Const(shared, 1))
        for shared, name in enumerate(("own", "shared"))
    }


def may_kill_asid(kill: data.View, *, asid: Value, group: Value) -> Value:
    """Return whether ``kill`` may speak of this address space, where it is not known whether the page is shared."""
    named = (kill.asid == asid) | (~kill.keep_global & (kill.group == group))
    return kill.valid & (kill.everything | named)


def is_killed(kill: data.View, translation: data.View, config: SecmmuConfig) -> Value:
    """Return whether ``kill`` overlaps ``translation``, whole spans compared (docs/secmmu.md, point 4)."""
    last = span_last(translation.vpn, translation.grain)
    if config.mutant == "rtl-no-span-compare":
        last = translation.vpn
    asid = killed_asid(
        kill, asid=translation.asid, group=translation.group, shared=translation.shared
    )
    return asid & ~below(kill.last, translation.vpn) & ~below(last, kill.first)
