"""One latency plot a path, policy by policy, as SVG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hostmm.policies import PATHS, POLICIES
from shootdown.report.measures import MEASURES, RTL
from shootdown.report.results import Distribution
from shootdown.run.config import MODEL
from shootdown.run.outcome import Outcome

__all__ = ["PLOTTED", "plot_latencies"]

PLOTTED = ("shootdown_cycles", "clear_to_drained_ns", "notified_ns", "ptl_hold_ns")
"""Measures of a path that have a panel each."""
_PERCENTILES = (("p50", "o"), ("p99", "^"))
_PANEL_INCHES = (3.4, 3.2)


def plot_latencies(outcomes: Sequence[Outcome], folder: Path, *, title: str) -> list[Path]:
    """Write ``PATH.svg`` for each path that ran; each mark is the middle, and its bar the range, over the seeds.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Runs that differ in policy and seed only.
    folder : Path
        Made if need be.
    title : str
        What the runs have in common.

    Returns
    -------
    list of Path
        The files, in the order of the paths.
    """
    # Names inside the file are made of this, so that the same figures are the same file.
    mpl.rcParams["svg.hashsalt"] = "shootdown"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in PATHS:
        policies = [p for p in POLICIES if _runs(outcomes, p, path)]
        if not policies:
            continue
        figure = _draw(outcomes, path, policies, title)
        file = folder / f"{path}.svg"
        figure.savefig(file, format="svg", metadata={"Date": None})
        files.append(file)
    return files


def _runs(outcomes: Sequence[Outcome], policy: str, path: str) -> list[Outcome]:
    return [o for o in outcomes if o.config.policy == policy and path in o.run.paths]


def _draw(outcomes: Sequence[Outcome], path: str, policies: Sequence[str], title: str) -> Figure:
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(PLOTTED), height), layout="constrained")
    figure.suptitle(f"{path}: {title}")
    for position, measure in enumerate(PLOTTED, 1):
        axes = figure.add_subplot(1, len(PLOTTED), position)
        for offset, (percentile, marker) in enumerate(_PERCENTILES):
            values = [
                _values(_runs(outcomes, policy, path), path, measure, percentile)
                for policy in policies
            ]
            _mark(axes, values, 0.2 * offset - 0.1, marker, percentile)
        _frame(axes, policies, f"{MEASURES[measure].what} [{_label(outcomes, measure)}]")
    return figure


def _label(outcomes: Sequence[Outcome], measure: str) -> str:
    """Name where a number comes from: what hardware counts, the model counts where it stood in its place."""
    counted = "model" if outcomes[0].config.simulator == MODEL else RTL
    return MEASURES[measure].label.replace(RTL, counted)


def _values(outcomes: Sequence[Outcome], path: str, measure: str, percentile: str) -> list[int]:
    """Return one value a seed, ascending; where a seed has too few samples, none."""
    found = []
    for outcome in outcomes:
        samples: Distribution | None = getattr(outcome.run.paths[path], measure)
        value = getattr(samples, percentile) if samples is not None else None
        if value is not None:
            found.append(value)
    return sorted(found)


def _mark(
    axes: Axes, values: Sequence[Sequence[int]], offset: float, marker: str, label: str
) -> None:
    """Draw the middle over the seeds of each policy, and their range."""
    places = [place for place, seeds in enumerate(values) if seeds]
    if not places:
        return
    middles = [values[place][len(values[place]) // 2] for place in places]
    below = [middle - values[place][0] for place, middle in zip(places, middles, strict=True)]
    above = [values[place][-1] - middle for place, middle in zip(places, middles, strict=True)]
    axes.errorbar(
        [place + offset for place in places],
        middles,
        yerr=[below, above],
        fmt=marker,
        capsize=3,
        label=label,
    )
    axes.legend(fontsize=7)


def _frame(axes: Axes, policies: Sequence[str], title: str) -> None:
    axes.set_title(title, fontsize=7)
    axes.set_xticks(range(len(policies)), policies, rotation=60, fontsize=7)
    axes.set_xlim(-0.5, len(policies) - 0.5)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y", linewidth=0.3)
