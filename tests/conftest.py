"""Options and collection shared by all tests."""

from typing import Any

import pytest

from tests.rtl import CasesNode, RtlCases, collect_cases


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that a replay command names."""
    parser.addoption("--seed", type=int, default=1, help="seed of every random choice (default 1)")
    parser.addoption("--waves", action="store_true", help="record waveforms of RTL simulations")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> CasesNode | None:
    """Turn RtlCases variables of test modules into items."""
    return collect_cases(collector, name, obj) if isinstance(obj, RtlCases) else None
