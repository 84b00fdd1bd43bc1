"""Components to Verilog text that both simulators read and that is the same in every checkout."""

import re

from amaranth.back import verilog
from amaranth.lib import wiring

__all__ = ["to_verilog"]

_STATEMENT = re.compile(r"\balways @\*(?! begin)")
_TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+ ) = 0;$", re.MULTILINE)


def to_verilog(component: wiring.Component, *, name: str) -> str:
    """Return ``component`` as Verilog, its top module called ``name``.

    The text carries no source locations, so that it depends on the design alone. Icarus 11 never
    starts an ``always @*`` whose inputs do not change (amaranth issue 1629). The back end lets each
    block read a register that is there to start it, but initialises it too early for that: here it
    is set after all processes wait. Blocks of one assignment have no such register and become
    ``always_comb``. The others must not: Icarus 11 starts some ``always_comb`` blocks at time 0
    again and again.

    Raises
    ------
    ValueError
        ``name`` is not a Verilog identifier.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"name must be a Verilog identifier, not {name!r}")
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    text = _TRIGGER.sub(r"  reg \1;\n  initial \1 <= 0;", text)
    return _STATEMENT.sub("always_comb", text)
