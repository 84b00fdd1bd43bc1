"""Options and collection shared by all tests."""

import signal
from typing import Any

import pytest

from tests.rtl import CasesNode, RtlCases, collect_cases


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that a replay command names."""
    parser.addoption("--seed", type=int, default=1, help="seed of every random choice (default 1)")
    parser.addoption("--waves", action="store_true", help="record waveforms of RTL simulations")


def pytest_configure() -> None:
    """Let what the tests start be interrupted, though a shell started pytest in the background, deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> CasesNode | None:
    """Turn RtlCases variables of test modules into items."""
    return collect_cases(collector, name, obj) if isinstance(obj, RtlCases) else None
