"""What the proofs hold the RTL to, written down a second time: from docs/secmmu.md, not from the RTL."""

from collections.abc import Callable

from amaranth.hdl import Value
from amaranth.lib import data

from secmmu.layouts import CommandKind
from secmmu.page_numbers import sign_extended, span_last

__all__ = ["CONTEXTS", "dooms"]

CONTEXTS = 2
"""Asids that have a context row, in the proofs' configurations."""


def dooms(command: data.View, translation: data.View, group_of: Callable[[Value], Value]) -> Value:
    """Return whether a command kills a translation: the table of docs/secmmu.md."""
    kind, kinds = command.kind, CommandKind
    first = sign_extended(translation.vpn)
    last = sign_extended(span_last(translation.vpn, translation.grain))
    page = (kind == kinds.PAGE) & (first <= command.first) & (command.first <= last)
    pages = (kind == kinds.RANGE) & (first <= command.last) & (command.first <= last)
    pages &= command.first <= command.last
    own = command.asid == translation.asid
    group = (group_of(command.asid[0]) == translation.group) & (command.asid < CONTEXTS)
    spoken_of = own | (translation.shared & group)
    spared = translation.shared & command.keep_global
    named = (page | pages | (kind == kinds.ASID)) & ~spared
    return (kind == kinds.ALL) | ((named | (kind == kinds.CONTEXT)) & spoken_of)
