"""Components to Verilog text that both simulators read and that is the same in every checkout."""

import re

from amaranth.back import verilog
from amaranth.lib import wiring

__all__ = ["to_verilog"]

_COMBINATIONAL = re.compile(r"\balways @\*")


def to_verilog(component: wiring.Component, *, name: str) -> str:
    """Return ``component`` as Verilog, its top module called ``name``.

    The text carries no source locations, so that it depends on the design alone. Combinational processes are
    written ``always_comb``: under cocotb, Icarus 11 never starts an ``always @*`` whose inputs do not change
    (amaranth issue 1629).

    Raises
    ------
    ValueError
        ``name`` is not a Verilog identifier.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"name must be a Verilog identifier, not {name!r}")
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    return _COMBINATIONAL.sub("always_comb", text)
