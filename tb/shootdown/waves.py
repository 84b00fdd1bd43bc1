"""GTKWave save files: the interesting signals in groups, enums as names, a marker on the cycle that matters."""

import re
from pathlib import Path

import pywellen
from vcd.gtkw import GTKWSave

from shootdown.errors import SimulationError

__all__ = ["SAVE_FILE", "cycle_time", "dump_of", "enum_names", "write_save_file"]

SAVE_FILE = "waves.gtkw"
DUMPS = ("dump.fst", "dump.vcd")
_CYCLE = re.compile(r"(^|\.)cycle(\[\d+:0\])?$")

GROUPS: tuple[tuple[str, str], ...] = (
    ("Link", r"\.(request|records)__(payload|valid|ready)$|\.endpoint\.(fsm_state|run|until)$"),
    (
        "Device",
        r"\.mmu\.device__(ar|aw)(id|addr|len|user|valid|ready)$|\.mmu\.device__(r|b|w)(id|resp|last|valid|ready)$",
    ),
    (
        "Memory side",
        r"\.mmu\.memory__(ar|aw)(id|addr|len|user|valid|ready)$|\.mmu\.memory__(r|b|w)(id|resp|last|valid|ready)$",
    ),
    ("TLB", r"\.mmu\.observe_(fill|kill)__(valid|payload\.\w+)$"),
    (
        "Walker",
        r"\.mmu\.walk__(ar(addr|user|valid|ready)|r(data|resp|valid|ready))$|\.mmu\.observe_walk__(valid|payload\.\w+)$",
    ),
    ("Invalidation", r"\.mmu\.(command|completion|fault)__(valid|ready|payload\.\w+)$"),
    ("Sanitizer", r"\.sanitizer\.\w*(violation|verdict)\w*(\.\w+)?$"),
)
"""Group title and what the full names of its signals look like."""

_ENUM_VALUE = re.compile(r'\(\* enum_value_([01]+) = "([^"]*)" \*\)')
_DECLARATION = re.compile(
    r"^\s*(?:input|output|wire|reg)(?: (?:wire|reg))?\s*(?:\[[^\]]*\]\s*)?\\?(\S+?)\s*(?:=.*)?;"
)


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
    """Read the enums off emitted Verilog: wire name to value to name.

    Amaranth leaves an attribute for each member before the declaration of every wire of an enum's shape.
    """
    found: dict[str, dict[int, str]] = {}
    values: dict[int, str] = {}
    for line in verilog.splitlines():
        if member := _ENUM_VALUE.search(line):
            values[int(member[1], 2)] = member[2]
        elif values and (declaration := _DECLARATION.match(line)):
            found[declaration[1]] = values
            values = {}
    return found


def cycle_time(dump: Path, cycle: int) -> int:
    """Return the time, in the dump's unit, at which the emulated cycle counter reached ``cycle``."""
    waveform = pywellen.Waveform(str(dump))
    counter = next(var for var in waveform.all_vars() if _CYCLE.search(var.full_name))
    return next((time for time, value in counter.tv if int(value) >= cycle), 0)


def write_save_file(
    dump: Path, enums: dict[str, dict[int, str]], *, marker_cycle: int | None = None
) -> Path:
    """Write ``waves.gtkw`` and its enum filters beside ``dump``; return it.

    Parameters
    ----------
    dump : Path
        FST or VCD.
    enums : dict
        As :func:`enum_names` gives it.
    marker_cycle : int or None
        Emulated cycle for the marker.
    """
    names = [var.full_name for var in pywellen.Waveform(str(dump)).all_vars()]
    target = dump.with_name(SAVE_FILE)
    filters: dict[str, Path] = {}
    with target.open("w") as file:
        save = GTKWSave(file)
        save.dumpfile(str(dump))
        if marker_cycle is not None:
            time = cycle_time(dump, marker_cycle)
            save.zoom_markers(-12.0, marker=time)
            save.timestart(max(time - 1000, 0))
        for name in sorted(n for n in names if _CYCLE.search(n))[:1]:
            save.trace(name, datafmt="dec")
        for title, pattern in GROUPS:
            _write_group(
                save,
                title,
                [n for n in names if re.search(pattern, n)],
                enums,
                filters,
                dump.parent,
            )
    return target


def _write_group(
    save: GTKWSave,
    title: str,
    names: list[str],
    enums: dict[str, dict[int, str]],
    filters: dict[str, Path],
    folder: Path,
) -> None:
    with save.group(title):
        for name in names:
            wire = re.sub(
                r"\[\d+:\d+\]$",
                "",
                name.split(".", name.count(".") - (".payload" in name and 0))[-1],
            )
            values = next((v for key, v in enums.items() if name.endswith(key)), None)
            alias = wire.replace("__", ".")
            if values is None:
                save.trace(name, alias=alias)
                continue
            filters[wire] = filters.get(wire) or _write_filter(
                folder / f"{re.sub(r'[^a-z_]', '_', wire)}.filter", values
            )
            save.trace(name, alias=alias, translate_filter_file=str(filters[wire]))


def _write_filter(file: Path, values: dict[int, str]) -> Path:
    file.write_text("".join(f"{value:x} {name}\n" for value, name in sorted(values.items())))
    return file
