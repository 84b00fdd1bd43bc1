"""Components to Verilog text that both simulators read and that is the same in every checkout."""

import re
from types import FunctionType

from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Format, Fragment, Signal
from amaranth.lib import wiring

__all__ = ["to_verilog"]

_STATEMENT = re.compile(r"\balways @\*(?! begin)")
_TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+ ) = 0;$", re.MULTILINE)


class _StatesNamed(Elaboratable):
    """``component``, its FSM states named for the back end: Amaranth names them for its own simulator only."""

    def __init__(self, component: wiring.Component) -> None:
        self._component = component
        self.signature = component.signature

    def __getattr__(self, member: str) -> object:
        return getattr(self._component, member)

    def elaborate(self, platform: object) -> Fragment:
        fragment = Fragment.get(self._component, platform)
        _name_states(fragment)
        return fragment


def _name_states(fragment: Fragment) -> None:
    for statements in fragment.statements.values():
        for statement in statements:
            state = getattr(statement, "test", None)
            # The state of an FSM is what the one kind of signal with a function as its decoder holds.
            if isinstance(state, Signal) and isinstance(state.decoder, FunctionType):
                names = {}
                for value in range(1 << len(state)):
                    try:
                        names[value] = state.decoder(value).rpartition("/")[0]
                    except KeyError:  # more codes than states
                        break
                state._format = Format.Enum(state, names)
    for subfragment, _name, _src_loc in fragment.subfragments:
        _name_states(subfragment)


def to_verilog(component: wiring.Component, *, name: str) -> str:
    """Return ``component`` as Verilog, its top module called ``name``.

    Wires of an enum's shape, and the states of FSMs, carry their names as attributes ``enum_value_BITS``.
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
    design = _StatesNamed(component)
    text = verilog.convert(design, name=name, emit_src=False, strip_internal_attrs=True)
    text = _TRIGGER.sub(r"  reg \1;\n  initial \1 <= 0;", text)
    return _STATEMENT.sub("always_comb", text)
