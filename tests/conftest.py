"""Options and collection shared by all tests."""

import os
import signal
from typing import Any

import pytest

from tests.rtl import CaseItem, CasesNode, RtlCases, collect_cases

BUILDS_THE_EMULATOR = "tests/tb/test_end_to_end.py"
"""Begins with the largest model, which many need: while one worker waits for it the other has no need of it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that a replay command names."""
    parser.addoption("--seed", type=int, default=1, help="seed of every random choice (default 1)")
    parser.addoption("--waves", action="store_true", help="record waveforms of RTL simulations")


def pytest_configure() -> None:
    """Let what the tests start be interrupted, though a shell started pytest in the background, deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Each of hundreds of processes would compile all modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first, so that two workers end together."""
    long = {item.path for item in items if _takes_long(item)}

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return not item.nodeid.startswith(BUILDS_THE_EMULATOR), item.path not in long

    items.sort(key=place)


def _takes_long(item: pytest.Item) -> bool:
    return isinstance(item, CaseItem) or item.get_closest_marker("slow") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> CasesNode | None:
    """Turn RtlCases variables of test modules into items."""
    return collect_cases(collector, name, obj) if isinstance(obj, RtlCases) else None
