"""``shootdown policies``: the steps that each policy executes on each mm path, side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostmm.machine.vocabulary import Passage
from shootdown.files import require_writable, write_whole
from shootdown.report.steps import Comparison, Line, compare, select
from shootdown.report.steps_page import page

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "policies", help="print the steps that each policy executes on each mm path, side by side"
    )
    parser.add_argument("path", nargs="*", help="only these paths (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the steps here as well")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write them as a page of documentation"
    )
    parser.set_defaults(command=_policies)


def _policies(chosen: argparse.Namespace) -> int:
    require_writable(chosen.json, chosen.markdown)
    comparisons = [compare(stage) for stage in select(chosen.path)]
    if chosen.json is not None:
        write_whole(chosen.json, msgspec.json.format(msgspec.json.encode(_data(comparisons))))
    if chosen.markdown is not None:
        write_whole(chosen.markdown, page(comparisons))
    console = Console(width=None if Console().is_terminal else 160)
    for comparison in comparisons:
        _print(console, comparison)
    console.print(
        "A line is one step; * marks one that not every policy takes in that place. Callbacks stand in angle brackets.",
        highlight=False,
    )
    return 0


def _data(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    return [
        {
            "name": comparison.stage.name,
            "path": comparison.stage.path,
            "section": comparison.stage.section,
            "title": comparison.stage.title,
            "policies": {
                name: None if passage is None else {"held": passage.held, "steps": passage.words}
                for name, passage in comparison.passages.items()
            },
        }
        for comparison in comparisons
    ]


def _print(console: Console, comparison: Comparison) -> None:
    stage = comparison.stage
    table = Table(title=f"{stage.name}: {stage.title}", title_justify="left", show_edge=False)
    for name in ("", *comparison.passages):
        table.add_column(name)
    table.add_row("", *(_held(passage) for passage in comparison.passages.values()))
    for line in comparison.lines:
        mark = "" if comparison.common(line) else "*"
        table.add_row(mark, *(_cell(line, name) for name in comparison.passages))
    console.print(table)
    console.print()


def _held(passage: Passage | None) -> Text:
    what = "n/a" if passage is None else f"({' '.join(passage.held) or 'no lock'})"
    return Text(what, style="dim")


def _cell(line: Line, name: str) -> Text:
    if name not in line.policies:
        return Text("")
    return Text(f"<{line.word}>", style="bold") if line.callback else Text(line.word)
