"""Compiles designs for the simulators, through the build cache."""

import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cocotb_tools.config

from shootdown.errors import ToolError
from shootdown.simulators import toolchain
from shootdown.simulators.buildcache import compile_cached

__all__ = ["SIMULATORS", "Built", "Design", "Simulator", "build", "build_bare"]

Simulator = Literal["verilator", "icarus"]
SIMULATORS: tuple[Simulator, ...] = ("verilator", "icarus")

_TIMESCALE = "1ns/1ps"
_VERILOG = (".v", ".sv")
_WARNINGS_OFF = ("-Wno-fatal", "-Wno-lint", "-Wno-style")
_TRANSLATE = ("--cc", "--exe", "--prefix", "Vtop", "-Mdir", "model", "-o", "sim", *_WARNINGS_OFF)
_OPTIMIZE = (
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"),
    # This pass looks for conditions far apart: two thirds of the translation of the emulator, for nothing.
    "-fno-merge-cond-motion",
)
_LONG, _SHORT = "OPT_FAST=-O2", "OPT_FAST=-O0"
"""For the C++ compiler, which takes five times as long with the first as with the second; a model with -O1 runs half as
fast as with -O2."""
_ONE_FILE = ("--output-split", "0")
"""Unless it optimizes, the C++ compiler takes as long for the headers as for the model: it should read them once."""
_RUNTIME = {
    # The delay makes Verilator's scheduler of coroutines part of it.
    "runtime.v": "module runtime; initial #1 $finish; endmodule\n",
    "runtime.mk": "include Vtop.mk\nruntime.o: $(VK_GLOBAL_OBJS)\n\t$(CXX) -r -nostdlib -o $@ $^\n",
}
"""Makes one object of what Verilator links to every model."""
_WAVES_MACRO = "SHOOTDOWN_WAVES"
_ICARUS_DUMP = """\
module shootdown_dump;
  reg [8*1024-1:0] file;
  initial if ($value$plusargs("dump=%s", file)) begin
    $dumpfile(file);
    $dumpvars(0, {top});
  end
endmodule
"""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A design to simulate.

    Parameters
    ----------
    name : str
        Prefix of the cache folder, for people.
    verilog : str
        Emitted text, see :func:`secmmu.emit.to_verilog`.
    top : str
        The top module, in ``verilog`` or in one of ``extra_sources``.
    extra_sources : tuple of Path
        Hand-written Verilog files.
    visible : tuple of str
        Signals of the top module that cocotb may touch under Verilator; ``("*",)`` is all of them. Deeper signals
        are not visible: that is what keeps the model fast.
    readable : tuple of str
        Signals that it may only read and wait for, which costs less.
    long : bool
        Meant for long simulations: Verilator's model is compiled to run fast, unless it is to record waves; otherwise
        to be ready soon.
    """

    name: str
    verilog: str
    top: str
    extra_sources: tuple[Path, ...] = ()
    visible: tuple[str, ...] = ("*",)
    readable: tuple[str, ...] = ()
    long: bool = False


@dataclass(frozen=True, kw_only=True)
class Built:
    """A compiled model: ``binary`` is Verilator's executable or Icarus' ``.vvp`` file."""

    design: Design
    simulator: Simulator
    binary: Path
    waves: bool


def build(design: Design, simulator: Simulator, *, waves: bool = False) -> Built:
    """Compile ``design``, or find it compiled.

    Raises
    ------
    ToolError
        A tool is missing; the message says how to install it.
    BuildError
        The simulator refused the design.
    """
    if simulator not in SIMULATORS:
        raise ToolError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    compiler = _verilate if simulator == "verilator" else _compile_icarus
    binary = compiler(design, _sources(design), waves)
    return Built(design=design, simulator=simulator, binary=binary, waves=waves)


def _sources(design: Design) -> dict[str, str]:
    extra = {path.name: path.read_text() for path in design.extra_sources}
    return {"design.v": design.verilog} | extra


def _compile_icarus(design: Design, sources: dict[str, str], waves: bool) -> Path:
    version = toolchain.find_icarus()
    sources = sources | {"timescale.f": f"+timescale+{_TIMESCALE}\n"}
    if waves:
        sources = sources | {"dump.v": _ICARUS_DUMP.replace("{top}", design.top)}
    tops = ["-s", design.top]
    tops += ["-s", "shootdown_dump", f"-D{_WAVES_MACRO}"] if waves else []
    files = sorted(name for name in sources if name.endswith(_VERILOG))
    command = ["iverilog", "-g2012", "-o", "sim.vvp", *tops, "-f", "timescale.f", *files]
    return compile_cached(f"{design.name}-icarus", sources, [command], "sim.vvp", {}, version)


def _verilate(design: Design, sources: dict[str, str], waves: bool) -> Path:
    if waves:
        toolchain.require("lz4.h", "zlib.h")
    libraries = cocotb_tools.config.libs_dir
    kinds = (("public_flat_rw", design.visible), ("public_flat_rd", design.readable))
    lines = [
        f'{kind} -module "{design.top}" -var "{name}"\n' for kind, names in kinds for name in names
    ]
    sources = sources | {"visible.vlt": f"`verilator_config\n{''.join(lines)}"}
    options = ["--vpi", "--timing", "--timescale", _TIMESCALE]
    options += ["-CFLAGS", "-std=c++20 -fcoroutines"]
    options += ["-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator"]
    options += ["--trace-fst", "--trace-structs", f"-D{_WAVES_MACRO}"] if waves else []
    main = str(cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp")
    version = f"cocotb {importlib.metadata.version('cocotb')}"
    name, fast = f"{design.name}-verilator", design.long and not waves
    return _run_verilator(name, design.top, sources, options, main, version, fast=fast)


def build_bare(design: Design, main: Path) -> Path:
    """Compile ``design`` with Verilator around the C++ program ``main``, without Python; return the executable.

    ``main`` includes ``Vtop.h``. The model is optimized as for :func:`build`.

    Raises
    ------
    ToolError
        A tool is missing.
    BuildError
        Verilator or the C++ compiler refused.
    """
    sources = _sources(design) | {main.name: main.read_text()}
    name, options = f"{design.name}-bare", ["--no-timing"]
    return _run_verilator(
        name, design.top, sources, options, f"../{main.name}", "", fast=design.long
    )


def _run_verilator(
    name: str,
    top: str,
    sources: dict[str, str],
    options: Sequence[str],
    main: str,
    version: str,
    *,
    fast: bool,
) -> Path:
    verilator = toolchain.find_verilator()
    environment = verilator.environment | {"MAKEFLAGS": f"-j{min(os.cpu_count() or 1, 4)}"}
    if shutil.which("ccache"):
        environment["OBJCACHE"] = "ccache"
    translate = [str(verilator.executable), *_TRANSLATE, *options]
    make = ["make", "-C", "model", "OPT_GLOBAL=-O2", *verilator.make_variables]
    version = f"{verilator.version} {version}"
    runtime = compile_cached(
        "runtime-verilator",
        _RUNTIME,
        [
            [*translate, "--top-module", "runtime", "runtime.v"],
            [*make, "-f", "../runtime.mk", "runtime.o"],
        ],
        "model/runtime.o",
        environment,
        version,
    )
    files = sorted(file for file in sources if file.endswith((*_VERILOG, ".vlt")))
    translate += [*_OPTIMIZE, *(() if fast else _ONE_FILE), "--top-module", top, main, *files]
    make += ["-f", "Vtop.mk", _LONG if fast else _SHORT]
    make += ["VM_GLOBAL_FAST=", "VM_GLOBAL_SLOW=", f"LOADLIBES={runtime}"]
    return compile_cached(name, sources, [translate, make], "model/sim", environment, version)
