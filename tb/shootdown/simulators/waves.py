"""GTKWave save files: the interesting signals in groups, enums as names, a marker on the cycle that matters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pywellen
from vcd.gtkw import GTKWSave, make_translation_filter

from secmmu.layouts import Response
from shootdown.errors import SimulationError

__all__ = ["GROUPS", "SAVE_FILE", "Enums", "cycle_time", "dump_of", "enum_names", "write_save_file"]

SAVE_FILE = "waves.gtkw"
DUMPS = ("dump.fst", "dump.vcd")
Enums = Mapping[str, Mapping[int, str]]
"""Names of a wire's values, by its path from the module ``emulator`` on."""

_TOP = "sim_top"
_CYCLE = f"{_TOP}.cycle"
_MMU = "emulator.emulated.mmu"
_COMMAND = "kind asid first last hold leaf_only keep_global whole_asid tag"
_READS = "arvalid arready arid araddr arlen aruser rvalid rready rid rdata rresp rlast"
_WRITES = (
    "awvalid awready awid awaddr awlen awuser wvalid wready wdata wlast bvalid bready bid bresp"
)
_DATAPATH = f"{_MMU}.datapath"
_TRANSLATION = "vpn asid grain shared"

GROUPS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Link": (
        ("emulator.endpoint.", "fsm_state run"),
        ("emulator.endpoint.request__", "valid ready payload"),
        ("emulator.endpoint.records__", "valid ready"),
        ("emulator.endpoint.records__payload.", "kind source tag arg cycle a b"),
    ),
    "Device": (
        (f"{_MMU}.device__", f"{_READS} {_WRITES}"),
        (f"{_DATAPATH}.waiters.fault__", "valid ready"),
        (f"{_DATAPATH}.waiters.fault__payload.", "cause va asid id write stalled place epoch"),
    ),
    "Pipeline": (
        (f"{_DATAPATH}.decide.flight.access.", "addr asid id len"),
        (f"{_DATAPATH}.decide.flight.", "write"),
        (f"{_DATAPATH}.decide.", "advance hit dies begin"),
        (f"{_DATAPATH}.decide.decision.", "place ends joins parks wants holds reports"),
        (f"{_DATAPATH}.waiters.asker.", "asking"),
    ),
    "Memory side": ((f"{_MMU}.memory__", f"{_READS} {_WRITES}"),),
    "TLB": (
        (f"{_MMU}.tlb.lookup__", "en vpn asid hit dies"),
        (f"{_MMU}.tlb.lookup__entry.", "ppn writable"),
        (f"{_MMU}.tlb.fill__", "en ready"),
        (f"{_MMU}.tlb.fill__entry.", "ppn writable"),
        (f"{_MMU}.tlb.fill__entry.translation.", _TRANSLATION),
        (f"{_MMU}.tlb.dropin__", "en ready"),
        (f"{_MMU}.tlb.kill.", "valid everything context keep_global asid first last leaf_only"),
    ),
    "Walker": (
        (f"{_MMU}.walker.began.", "valid walk asid vpn write"),
        (f"{_MMU}.walker.ended.", "valid walk asid vpn outcome pte"),
        (f"{_MMU}.walker.", "answered killed"),
        (f"{_MMU}.walker.bus__", "arvalid arready arid araddr rvalid rready rid rdata rresp"),
    ),
    "Invalidation": (
        (f"{_MMU}.invalidation.command__", "valid ready"),
        (f"{_MMU}.invalidation.command__payload.", _COMMAND),
        (f"{_MMU}.invalidation.", "applied done epoch"),
        *(
            row
            for stream in ("invalidated", "drained")
            for row in (
                (f"{_MMU}.invalidation.{stream}__", "valid ready"),
                (f"{_MMU}.invalidation.{stream}__payload.", "phase tag"),
            )
        ),
        (f"{_DATAPATH}.uses.", "busy_next closing"),
    ),
    "Sanitizer": tuple(
        row
        for port in ("read", "write", "walk")
        for row in (
            (f"emulator.sanitizer.{port}__", "valid"),
            (f"emulator.sanitizer.{port}__payload.", "address asid id beats"),
            ("emulator.sanitizer.", f"{port}_verdict {port}_guilty"),
            (f"emulator.sanitizer.{port}_violation__", "valid"),
        )
    ),
}
"""Each group's signals, in order: a path and what follows it. A component's own ports are taken where it is alone with
them: in the modules around it the back end tells equal names apart by ``$NUMBER``, which may change."""

_ENUM_VALUE = re.compile(r'\(\* enum_value_([01]+) = "([^"]*)" \*\)')
_MODULE = re.compile(r"module \\?([^\s(]+)")
_DECLARATION = re.compile(
    r"(?:input|output|wire|reg)\b(?: (?:wire|reg))? *(?:\[[^]]*\] *)?\\?([^\s;]+)"
)
_RESPONSES = {response.value: response.name for response in Response}

# A zoom of -Z shows 2**Z units of time, here ps, in 200 pixels: this is 43 pixels for a clock period of 10 ns.
_ZOOM = -15.5
_BEFORE_MARKER_PS = 150_000


def dump_of(folder: Path) -> Path:
    """Return the waveform in a run's folder.

    Raises
    ------
    SimulationError
        There is none.
    """
    for name in DUMPS:
        if (folder / name).is_file():
            return folder / name
    raise SimulationError(f"no waveform in {folder}: run with --waves (make sim WAVES=1)")


def enum_names(verilog: str) -> dict[str, dict[int, str]]:
    """Read the enums off emitted Verilog, see :data:`Enums`.

    An attribute for each member stands before the declaration of every wire of an enum's shape, and of every FSM's
    state; see :func:`secmmu.emit.to_verilog`. Modules are named by their paths.
    """
    found: dict[str, dict[int, str]] = {}
    values: dict[int, str] = {}
    module = ""
    for line in verilog.splitlines():
        text = line.lstrip()
        if text.startswith("(*"):
            if member := _ENUM_VALUE.match(text):
                values[int(member[1], 2)] = member[2]
        elif text.startswith("module "):
            if opened := _MODULE.match(text):
                module = opened[1]
        elif values:
            if declaration := _DECLARATION.match(text):
                found[f"{module}.{declaration[1]}"] = values
            values = {}
    return found


def cycle_time(dump: Path, cycle: int) -> int:
    """Return the time, in the dump's unit, at which the emulated cycle counter reached ``cycle``.

    Where it never did, the time of its last change.

    Raises
    ------
    SimulationError
        The dump holds no cycle counter.
    """
    counter = _variables(dump).get(_CYCLE)
    if counter is None:
        raise SimulationError(f"{dump} holds no {_CYCLE}")
    reached = 0
    for time, value in counter.tv:
        reached = time
        if isinstance(value, int) and value >= cycle:  # unknown bits make it a string
            break
    return reached


def _variables(dump: Path) -> dict[str, pywellen.Var]:
    """Return the dumped variables by path, as the Verilog names them: Icarus keeps the backslash of escaped names."""
    return {var.full_name.replace("\\", ""): var for var in pywellen.Waveform(str(dump)).all_vars()}


@dataclass
class _Traces:
    """Adds traces to a save file; each set of names becomes one filter file in ``filters``."""

    save: GTKWSave
    enums: Enums
    filters: Path
    written: dict[tuple[object, ...], Path] = field(default_factory=dict)

    def add(self, var: pywellen.Var, path: str, alias: str) -> None:
        """Add ``var``, whose path from ``emulator`` on is ``path``."""
        bits = var.bitwidth
        # GTKWave finds a vector only with its range, and Icarus' escaped names only with their backslash.
        name = var.full_name if bits == 1 else f"{var.full_name}[{bits - 1}:0]"
        names = _RESPONSES if path.endswith(("__rresp", "__bresp")) else self.enums.get(path)
        if names is None:
            self.save.trace(name, alias=alias, datafmt="dec" if alias.endswith("cycle") else "hex")
        else:
            file = str(self._filter(path, names, bits))
            self.save.trace(name, alias=alias, datafmt="bin", translate_filter_file=file)

    def _filter(self, path: str, names: Mapping[int, str], bits: int) -> Path:
        key = (bits, *names.items())
        if key not in self.written:
            self.filters.mkdir(exist_ok=True)
            file = self.filters / f"{path}.filter"
            pairs = sorted(names.items())
            file.write_text(make_translation_filter(pairs, datafmt="bin", size=bits) + "\n")
            self.written[key] = file
        return self.written[key]


def write_save_file(dump: Path, enums: Enums, *, marker: tuple[int, str] | None = None) -> Path:
    """Write ``waves.gtkw`` and its filter files beside ``dump``; return it.

    Paths in it are absolute. Signals of :data:`GROUPS` that were not dumped are left out.

    Parameters
    ----------
    dump : Path
        FST or VCD of ``sim_top.v``.
    enums : Enums
        As :func:`enum_names` gives it.
    marker : tuple of int and str, or None
        Emulated cycle for the marker, and what happened there.
    """
    dump = dump.absolute()
    variables = _variables(dump)
    target = dump.with_name(SAVE_FILE)
    with target.open("w") as file:
        save = GTKWSave(file)
        save.dumpfile(str(dump))
        save.size(1600, 1000)
        save.signals_width(420)
        save.sst_expanded(False)
        if marker is not None:
            time = cycle_time(dump, marker[0])
            save.timestart(max(time - _BEFORE_MARKER_PS, 0))
            # Zoom, the marker, and a marker called A, whose name is shown above the waves.
            file.write(f"*{_ZOOM} {time} {time}\n[markername] A{marker[1]}\n")
        traces = _Traces(save, enums, dump.with_name("filters"))
        if _CYCLE in variables:
            save.trace(f"{_CYCLE}[63:0]", alias="cycle", datafmt="dec")
        for title, rows in GROUPS.items():
            with save.group(title):
                for path in _paths(rows):
                    if var := variables.get(f"{_TOP}.{path}"):
                        traces.add(var, path, _alias(path, title))
    return target


def _paths(rows: tuple[tuple[str, str], ...]) -> list[str]:
    return [prefix + suffix for prefix, suffixes in rows for suffix in suffixes.split()]


def _alias(path: str, title: str) -> str:
    own = path.removeprefix(f"{_MMU}.").removeprefix("emulator.")
    own = own.removeprefix(f"{title.lower()}.").removeprefix("endpoint.")
    # GTKWave shows what follows the last dot of an alias.
    for joint in ("__payload.", "__entry.translation.", "__entry.", "__", "."):
        own = own.replace(joint, "_")
    return own
