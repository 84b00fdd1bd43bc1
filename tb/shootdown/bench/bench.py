"""Measures what Python costs: the emulator under cocotb against the same RTL in a bare C++ loop.

Both are measured alternately, on the same link words, in CPU seconds of their one thread, and the fastest round of
each counts: other load on the machine disturbs both, and only ever slows.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from secmmu.config import EmulatorConfig
from shootdown.cases.bench_cases import FIGURES_FILE, OPTIONS_ENV, WORDS_FILE
from shootdown.errors import SimulationError
from shootdown.run.config import DEFAULT_POLICIES, DEFAULT_TRACE, RunConfig
from shootdown.simulators import simulate
from shootdown.simulators.builds import Built, build, build_bare
from shootdown.simulators.designs import bare_design, emulator_design

__all__ = ["DEVICE_TARGET", "REPLAY_TARGET", "Bench", "Measurement"]

REPLAY_TARGET = 0.5
DEVICE_TARGET = 0.7

_MODULE = "shootdown.cases.bench_cases"
_MAIN = Path(__file__).with_name("bench_main.cpp")
_TIMEOUT_S = 1800.0
_SEED = 1


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One session under cocotb and bare.

    Attributes
    ----------
    cycles, records, wakes : int
        Emulated cycles, link records and wakes of Python of the session.
    seconds, bare_seconds : float
        CPU seconds under cocotb and in the bare loop.
    """

    name: str
    cycles: int
    records: int
    wakes: int
    seconds: float
    bare_seconds: float

    @property
    def ratio(self) -> float:
        """Emulated cycles a second under cocotb, as a share of the bare loop's."""
        return self.bare_seconds / self.seconds

    @property
    def overhead_ns(self) -> float:
        """Nanoseconds that Python and cocotb add to a cycle."""
        return (self.seconds - self.bare_seconds) / self.cycles * 1e9

    @property
    def wakes_per_1000(self) -> float:
        """Wakes of Python in 1000 emulated cycles."""
        return 1000 * self.wakes / self.cycles


@dataclass(frozen=True)
class Bench:
    """What to measure with.

    Parameters
    ----------
    rounds : int
        Measurements of each kind.
    bursts : int
        DMA bursts of the device-only stretch.
    trace : str
        Trace of the replay.
    cycles : int
        Emulated cycles after which the replay ends; the default replay has fewer than six million.
    progress : callable
        Is told what is going on.
    """

    rounds: int
    bursts: int
    trace: str
    cycles: int
    progress: Callable[[str], None]

    def device_only(self) -> Measurement:
        """Measure busy engines and a sleeping host, warp off."""
        config = EmulatorConfig()
        registers = {
            "memory.read_latency": 20,
            "memory.write_latency": 20,
            "dma.outstanding": 4,
            "warp": 0,
        }
        options = {"bursts": self.bursts, "engines": config.engines, "registers": registers}
        return self._alternate("device-only", "device_only", options)

    def replay(self, *, warp: bool) -> Measurement:
        """Measure the default replay under the first default policy."""
        added = self.trace == DEFAULT_TRACE
        config = RunConfig(
            policy=DEFAULT_POLICIES[0],
            trace=self.trace,
            seed=_SEED,
            warp=warp,
            nonlinear=added,
            xip=added,
        )
        options = {"config": config.to_json().decode(), "cycles": self.cycles}
        return self._alternate(f"replay, warp {'on' if warp else 'off'}", "replay", options)

    def _alternate(self, name: str, case: str, options: dict[str, object]) -> Measurement:
        self.progress(f"{name}: compiling")
        built = build(emulator_design(EmulatorConfig()), "verilator")
        bare = build_bare(bare_design(EmulatorConfig()), _MAIN)
        ours, theirs = [], []
        with tempfile.TemporaryDirectory(prefix="shootdown-bench-") as folder:
            for number in range(self.rounds):
                self.progress(f"{name}: round {number + 1} of {self.rounds}")
                ours.append(_under_cocotb(built, case, options, Path(folder)))
                theirs.append(_bare(bare, Path(folder) / WORDS_FILE))
        best = min(ours, key=lambda figures: figures["seconds"])
        return Measurement(
            name=name,
            cycles=int(best["cycles"]),
            records=int(best["records"]),
            wakes=int(best["wakes"]),
            seconds=best["seconds"],
            bare_seconds=min(theirs),
        )


def _under_cocotb(
    built: Built, case: str, options: dict[str, object], folder: Path
) -> dict[str, float]:
    results = simulate.run(
        built,
        _MODULE,
        cases=[case],
        seed=_SEED,
        env={OPTIONS_ENV: json.dumps(options)},
        out=folder,
        timeout_s=_TIMEOUT_S,
    )
    if not results[0].passed:
        raise SimulationError(f"bench: {case}: {results[0].message.strip().splitlines()[-1]}")
    return msgspec.json.decode((folder / FIGURES_FILE).read_bytes(), type=dict[str, float])


def _bare(program: Path, words: Path) -> float:
    """Return the bare loop's CPU seconds; it checks itself that it ends in the recorded cycle."""
    done = subprocess.run(
        [str(program), str(words)], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        raise SimulationError(f"bench: the bare loop failed: {done.stderr.strip()}")
    return float(json.loads(done.stdout)["seconds"])
