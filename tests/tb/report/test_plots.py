"""One plot a path, the same bytes for the same figures."""

from pathlib import Path
from xml.etree import ElementTree

from msgspec.structs import replace

from shootdown.report.plots import PLOTTED, plot_latencies
from shootdown.run.outcome import Outcome
from tests.tb.report.test_report import outcome, path


def outcomes(simulator: str) -> list[Outcome]:
    """Two policies, two seeds; only the first has a second path."""
    found = []
    for policy, ptl in (("v9", 1000), ("seed", 400)):
        for seed in (1, 2):
            paths = {"do_wp_page": path(ptl=ptl + seed)}
            if policy == "v9":
                paths["__xip_unmap"] = path()
            one = outcome(policy, paths)
            config = replace(one.config, seed=seed, simulator=simulator)
            found.append(replace(one, config=config))
    return found


def test_a_file_for_each_path_that_ran(tmp_path: Path) -> None:
    """Well-formed, one panel a measure, and reproducible."""
    files = plot_latencies(outcomes("model"), tmp_path / "one", title="shared")
    assert [file.name for file in files] == ["__xip_unmap.svg", "do_wp_page.svg"]
    again = plot_latencies(outcomes("model"), tmp_path / "two", title="shared")
    for file, other in zip(files, again, strict=True):
        assert file.read_bytes() == other.read_bytes()
        root = ElementTree.parse(file).getroot()
        axes = [e for e in root.iter() if e.get("id", "").startswith("axes_")]
        assert len(axes) == len(PLOTTED)


def test_the_carrier_is_named(tmp_path: Path) -> None:
    """What the model counts is not called RTL."""
    for simulator, word, other in (
        ("model", "[model]", "[RTL]"),
        ("verilator", "[RTL]", "[model]"),
    ):
        folder = tmp_path / simulator
        plot_latencies(outcomes(simulator), folder, title="shared")
        text = (folder / "do_wp_page.svg").read_text()
        assert word in text
        assert other not in text
