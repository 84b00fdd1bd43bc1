"""The build cache: what commands make of sources is kept, and found again by its content.

A result's folder is named by a hash of everything that made it: the sources, the commands and the versions of the
tools. It appears under that name by one rename, so an interrupted build leaves nothing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock

from shootdown.errors import BuildError, BuildTimeoutError, ToolError
from shootdown.simulators.processes import run_group

__all__ = ["cache_folder", "cached_text", "compile_cached"]

_FORMAT = 1
"""Raised when the build steps below change in a way that the hashed arguments do not show."""


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
    limit_s: float | None = None,
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
    limit_s : float or None
        Wall-clock limit of each command, in seconds; not part of the hash.

    Raises
    ------
    BuildError
        A command failed; its output is kept in the named log.
    BuildTimeoutError
        One ran longer than ``limit_s``.
    """
    parts = [_FORMAT, sources, commands, product, version]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache_folder() / f"{name}-{digest}"
    result = folder / Path(product).name
    if result.is_file():
        return result
    with filelock.FileLock(f"{folder}.lock"):
        if not result.is_file():
            _compile(folder, sources, commands, product, environment, limit_s)
    return result


def _compile(
    folder: Path,
    sources: dict[str, str],
    commands: list[list[str]],
    product: str,
    environment: dict[str, str],
    limit_s: float | None,
) -> None:
    work, log = Path(f"{folder}.building"), Path(f"{folder}.failed.log")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        for file, text in sources.items():
            (work / file).write_text(text)
        for command in commands:
            _perform(command, work, environment, limit_s, log)
        ready = work / "ready"
        ready.mkdir()
        (work / product).replace(ready / Path(product).name)
        (work / "build.log").replace(ready / "build.log")
        ready.replace(folder)
        log.unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _perform(
    command: list[str], work: Path, environment: dict[str, str], limit_s: float | None, log: Path
) -> None:
    """Run one command; what it and those before said goes to ``log`` where it fails."""
    said = work / "build.log"
    try:
        with said.open("ab") as output:
            status = run_group(
                command, cwd=work, env={**os.environ, **environment}, log=output, timeout_s=limit_s
            )
    except TimeoutError as error:
        said.replace(log)
        raise BuildTimeoutError(f"{error}: see {log}", log) from None
    if status != 0:
        said.replace(log)
        raise BuildError(f"{command[0]} failed with status {status}: see {log}")


def cached_text(name: str, parts: object, make: Callable[[], str]) -> str:
    """Return ``make()``, kept under a hash of ``parts``, which must be all that it depends on (as JSON)."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    file = cache_folder() / f"{name}-{digest}.txt"
    with filelock.FileLock(f"{file}.lock"):
        if not file.is_file():
            part = file.with_suffix(".part")
            part.write_text(make())
            part.replace(file)
        return file.read_text()
