"""What ``shootdown walk`` does: accesses translated by the RTL, on the page tables of a memory image."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from secmmu.layouts import PA_BITS, PPN_BITS, VA_BITS
from shootdown.cases.walk_cases import (
    ASIDS,
    IMAGE_FILE,
    JOB_FILE,
    MMU,
    RESULT_FILE,
    Access,
    Answer,
    Job,
)
from shootdown.errors import SimulationError, UsageError
from shootdown.simulators import simulate
from shootdown.simulators.builds import Simulator
from shootdown.simulators.designs import secmmu_design

__all__ = ["ASIDS", "WORD_BYTES", "read_accesses", "read_image", "walk"]

WORD_BYTES = 8
_MODULE = "shootdown.cases.walk_cases"
_FORM = "asid root_ppn va r|w"
_SECONDS = 60.0
_SECONDS_PER_ACCESS = 0.5


def read_accesses(path: Path) -> list[Access]:
    """Read accesses, one a line: ``asid root_ppn va r|w``; what follows a ``#`` does not count.

    Raises
    ------
    UsageError
        It cannot be read, a line is none, or there is none at all.
    """
    accesses = [
        _access(line.split(), f"{path}:{number}")
        for number, line in enumerate(_lines(path), start=1)
        if line.strip()
    ]
    if not accesses:
        raise UsageError(f"{path} holds no access: a line is {_FORM}")
    return accesses


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text: a line is {_FORM}") from None
    return (line.partition("#")[0] for line in text.splitlines())


def _access(words: list[str], where: str) -> Access:
    if len(words) != 4 or words[3] not in ("r", "w"):
        raise UsageError(f"{where}: an access is {_FORM}, not {' '.join(words)!r}")
    limits = {"asid": ASIDS, "root_ppn": 1 << PPN_BITS, "va": 1 << VA_BITS}
    numbers = []
    for (name, limit), word in zip(limits.items(), words, strict=False):
        try:
            number = int(word, 0)
        except ValueError:
            number = -1
        if not 0 <= number < limit:
            raise UsageError(
                f"{where}: {name} must be a number from 0 to {limit - 1:#x}, not {word!r}"
            )
        numbers.append(number)
    asid, root_ppn, va = numbers
    return Access(asid, root_ppn, va, words[3] == "w")


def read_image(path: Path, base: int) -> bytes:
    """Read a raw image of physical memory that begins at ``base``.

    Raises
    ------
    UsageError
        It cannot be read, is empty, is not made of 64-bit words or ends beyond the physical address space.
    """
    try:
        image = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not image or len(image) % WORD_BYTES:
        raise UsageError(
            f"{path} must be one or more words of {WORD_BYTES} bytes, not {len(image)} bytes"
        )
    if base + len(image) > 1 << PA_BITS:
        raise UsageError(f"{path} at {base:#x} must end within {PA_BITS} bits of address")
    return image


def walk(
    accesses: list[Access],
    image: bytes,
    *,
    base: int,
    mode: str,
    svadu: bool,
    simulator: Simulator = "verilator",
) -> tuple[list[Answer], bytes]:
    """Perform accesses in order; return their answers and the image with the A and D bits that they set.

    Raises
    ------
    ShootdownError
        A tool is missing, or the simulation failed; then its folder stays.
    """
    built = simulate.build(secmmu_design(replace(MMU, svadu=svadu)), simulator)
    folder = Path(tempfile.mkdtemp(prefix="shootdown-walk-"))
    failed = False
    try:
        return _simulate(built, folder, image, Job(mode, svadu, base, accesses))
    except SimulationError:
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(folder)


def _simulate(
    built: simulate.Built, folder: Path, image: bytes, job: Job
) -> tuple[list[Answer], bytes]:
    (folder / IMAGE_FILE).write_bytes(image)
    (folder / JOB_FILE).write_bytes(msgspec.json.encode(job))
    (result,) = simulate.run(
        built,
        _MODULE,
        cases=["walk"],
        seed=0,
        env={},
        out=folder,
        timeout_s=_SECONDS + _SECONDS_PER_ACCESS * len(job.accesses),
    )
    if not result.passed:
        reason = result.message.strip().splitlines()[-1]
        raise SimulationError(f"the walk failed: {reason}: see {folder / simulate.LOG_NAME}")
    answers = msgspec.json.decode((folder / RESULT_FILE).read_bytes(), type=list[Answer])
    return answers, (folder / IMAGE_FILE).read_bytes()
