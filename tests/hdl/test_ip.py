"""The block for other systems: its ports, its linting, and that agents which are not ours can drive it."""

import dataclasses
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from secmmu.config import PRESETS, SecmmuConfig
from secmmu.ip import WAIVERS, ip_verilog
from shootdown.collector import no_collection
from shootdown.simulators import toolchain
from shootdown.simulators.simulate import Design
from tests.rtl import RtlCases

TINY = PRESETS["tiny"]


@cache
@no_collection()
def text_of(preset: str) -> str:
    return ip_verilog(PRESETS[preset])


def block() -> Design:
    return Design(name="secmmu-ip", verilog=text_of("tiny"), top="secmmu")


system = RtlCases(block, "shootdown.cases.ip_cases", simulators=("icarus",))


def test_ports_have_the_names_that_vendor_tools_look_for() -> None:
    text = ip_verilog(dataclasses.replace(TINY, svadu=True))
    head = re.search(r"^module secmmu\((.*?)\);", text, re.DOTALL | re.MULTILINE)
    assert head is not None
    ports = set(re.findall(r"\w+", head[1]))
    for prefix, channels in (
        ("s_axi", ("ar", "aw")),
        ("m_axi", ("ar", "aw")),
        ("m_axi_walk", ("ar", "aw")),
        ("s_axil", ("ar", "aw")),
    ):
        for channel in channels:
            assert {f"{prefix}_{channel}{name}" for name in ("addr", "valid", "ready")} <= ports
        assert {
            f"{prefix}_{name}" for name in ("rdata", "rvalid", "wdata", "wstrb", "bresp")
        } <= ports
    for stream in (
        *(f"s_axis_{name}" for name in ("command", "dropin", "resume")),
        *(f"m_axis_{name}" for name in ("invalidated", "drained", "dropped", "fault")),
    ):
        assert {f"{stream}_{name}" for name in ("tdata", "tvalid", "tready")} <= ports
    assert {"aclk", "aresetn", "idle"} <= ports
    known = re.compile(r"aclk|aresetn|idle|(s_axi|m_axi|m_axi_walk|s_axil|[sm]_axis_[a-z]+)_[a-z]+")
    assert all(known.fullmatch(port) for port in ports)


def test_the_head_says_what_the_values_mean() -> None:
    """Without the sources nobody could send a command."""
    head = text_of("tiny").partition("\nmodule")[0]
    assert (
        "//   kind: 0 PAGE, 1 RANGE, 2 ASID, 3 ALL, 4 FENCE, 5 RELEASE, 6 YOUNG, 7 CONTEXT" in head
    )
    assert "//   phase: 0 INVALIDATED, 1 DRAINED, 2 REFUSED, 3 TIMED_OUT" in head
    assert "//   cause: 5 LOAD_ACCESS, 7 STORE_ACCESS, 13 LOAD_PAGE, 15 STORE_PAGE" in head
    assert "//   grain: 0 4 KiB, 1 64 KiB, 2 2 MiB, 3 1 GiB, 4 512 GiB, 5 256 TiB" in head
    assert "SystemVerilog" in head


def test_observation_stays_at_home() -> None:
    with pytest.raises(ValueError, match="observe must be off"):
        ip_verilog(SecmmuConfig())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "default"])
def test_verilator_has_nothing_to_say(preset: str, tmp_path: Path) -> None:
    """With -Wall, and only the waivers that the text itself gives reasons for."""
    assert len(WAIVERS) <= 7
    assert lint(text_of(preset), tmp_path) == set()


def test_each_waiver_is_needed(tmp_path: Path) -> None:
    bare = re.sub(r"/\* verilator lint_off .*", "", text_of("tiny"))
    assert "lint_off" not in bare
    assert lint(bare, tmp_path) == set(WAIVERS)


def lint(text: str, folder: Path) -> set[str]:
    """Return the kinds of warning that Verilator has for ``text``."""
    verilator = toolchain.find_verilator()
    (folder / "ip.v").write_text(text)
    words = [str(verilator.executable), "--lint-only", "-Wall", "--top-module", "secmmu", "ip.v"]
    run = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | verilator.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = set(re.findall(r"^%(?:Warning|Error)-([A-Z]+)", run.stderr, re.MULTILINE))
    assert (run.returncode == 0) == (not found), run.stderr[:2000]
    return found
