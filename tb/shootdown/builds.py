"""The build cache: each simulation model is compiled once and found again by its content.

A model's folder is named by a hash of everything that made it: the Verilog, the extra sources, the simulator and
its version, and the arguments. It appears under that name by one rename, so an interrupted build leaves nothing.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cocotb_tools.config
import filelock

from shootdown import toolchain
from shootdown.errors import BuildError, ToolError
from shootdown.processes import run_group

__all__ = ["SIMULATORS", "Built", "Design", "Simulator", "build", "cache_folder", "compile_cached"]

Simulator = Literal["verilator", "icarus"]
SIMULATORS: tuple[Simulator, ...] = ("verilator", "icarus")

_FORMAT = 1
"""Raised when the build steps below change in a way that the hashed arguments do not show."""
_TIMESCALE = "1ns/1ps"
_VERILOG = (".v", ".sv")
_WARNINGS_OFF = ("-Wno-fatal", "-Wno-lint", "-Wno-style")
_OPTIMIZE = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
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
    """

    name: str
    verilog: str
    top: str
    extra_sources: tuple[Path, ...] = ()
    visible: tuple[str, ...] = ("*",)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A compiled model: ``binary`` is Verilator's executable or Icarus' ``.vvp`` file."""

    design: Design
    simulator: Simulator
    binary: Path
    waves: bool


def cache_folder() -> Path:
    """Return the cache folder, ``$SHOOTDOWN_CACHE`` or ``~/.cache/shootdown``, made if need be.

    Raises
    ------
    ToolError
        It cannot be made, or its path has blanks, which GNU make cannot work with.
    """
    base = os.environ.get("SHOOTDOWN_CACHE")
    folder = Path(base).absolute() if base else Path.home() / ".cache" / "shootdown"
    if len(str(folder).split()) != 1:
        raise ToolError(
            f"cache folder {str(folder)!r} has blanks in its path: set SHOOTDOWN_CACHE to another one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(
            f"cannot make cache folder {folder}: {error.strerror}; set SHOOTDOWN_CACHE"
        ) from error
    return folder


def compile_cached(
    name: str,
    sources: dict[str, str],
    commands: list[list[str]],
    product: str,
    environment: dict[str, str],
    version: str,
) -> Path:
    """Return ``product``, made by ``commands`` from ``sources``, from the cache where it is there already.

    Parameters
    ----------
    name : str
        Prefix of the cache folder.
    sources : dict
        File name to text; written into the folder in which the commands run.
    commands : list of argument lists
        Run in order; each must succeed.
    product : str
        The file to keep, relative to that folder.
    environment : dict
        Laid over this process' environment; not part of the hash.
    version : str
        What the result depends on besides: versions of the compilers.

    Raises
    ------
    BuildError
        A command failed; its output is kept in the named log.
    """
    parts = [_FORMAT, sources, commands, product, version]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache_folder() / f"{name}-{digest}"
    result = folder / Path(product).name
    if result.is_file():
        return result
    with filelock.FileLock(f"{folder}.lock"):
        if not result.is_file():
            _compile(folder, sources, commands, product, environment)
    return result


def _compile(
    folder: Path,
    sources: dict[str, str],
    commands: list[list[str]],
    product: str,
    environment: dict[str, str],
) -> None:
    work, log = folder.with_suffix(".building"), folder.with_suffix(".failed.log")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        for file, text in sources.items():
            (work / file).write_text(text)
        with (work / "build.log").open("wb") as output:
            for command in commands:
                status = run_group(command, cwd=work, env={**os.environ, **environment}, log=output)
                if status != 0:
                    (work / "build.log").replace(log)
                    raise BuildError(f"{command[0]} failed with status {status}: see {log}")
        ready = work / "ready"
        ready.mkdir()
        (work / product).replace(ready / Path(product).name)
        (work / "build.log").replace(ready / "build.log")
        ready.replace(folder)
        log.unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
    sources = {"design.v": design.verilog}
    sources |= {path.name: path.read_text() for path in design.extra_sources}
    compiler = _verilate if simulator == "verilator" else _compile_icarus
    binary = compiler(design, sources, waves)
    return Built(design=design, simulator=simulator, binary=binary, waves=waves)


def _compile_icarus(design: Design, sources: dict[str, str], waves: bool) -> Path:
    version = toolchain.find_icarus()
    sources = sources | {"timescale.f": f"+timescale+{_TIMESCALE}\n"}
    if waves:
        sources = sources | {"dump.v": _ICARUS_DUMP.replace("{top}", design.top)}
    tops = ["-s", design.top] + (["-s", "shootdown_dump"] if waves else [])
    files = sorted(name for name in sources if name.endswith(_VERILOG))
    command = ["iverilog", "-g2012", "-o", "sim.vvp", *tops, "-f", "timescale.f", *files]
    return compile_cached(f"{design.name}-icarus", sources, [command], "sim.vvp", {}, version)


def _verilate(design: Design, sources: dict[str, str], waves: bool) -> Path:
    verilator = toolchain.find_verilator()
    if waves:
        toolchain.require("lz4.h", "zlib.h")
    libraries = cocotb_tools.config.libs_dir
    visible = "".join(
        f'public_flat_rw -module "{design.top}" -var "{name}"\n' for name in design.visible
    )
    sources = sources | {"visible.vlt": f"`verilator_config\n{visible}"}
    translate = [str(verilator.executable), "--cc", "--exe", "-Mdir", "model", "--vpi", "--timing"]
    translate += [
        "--prefix",
        "Vtop",
        "--top-module",
        design.top,
        "-o",
        "sim",
        *_WARNINGS_OFF,
        *_OPTIMIZE,
    ]
    translate += ["--timescale", _TIMESCALE, "-CFLAGS", "-std=c++20 -fcoroutines"]
    translate += ["-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator"]
    translate += ["--trace-fst", "--trace-structs"] if waves else []
    translate += [str(cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp")]
    translate += ["visible.vlt", *sorted(name for name in sources if name.endswith(_VERILOG))]
    variables = [
        "OPT_FAST=-O2",
        "OPT_GLOBAL=-O2",
        f"VM_TRACE={int(waves)}",
        *verilator.make_variables,
    ]
    compile_model = ["make", "-C", "model", "-f", "Vtop.mk", *variables]
    environment = dict(verilator.environment)
    if shutil.which("ccache"):
        environment["OBJCACHE"] = "ccache"
    version = f"{verilator.version}, cocotb {importlib.metadata.version('cocotb')}"
    commands = [translate, compile_model]
    return compile_cached(
        f"{design.name}-verilator", sources, commands, "model/sim", environment, version
    )
