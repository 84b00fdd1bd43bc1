"""``shootdown policies``: steps side by side, as data, and as the page in docs."""

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostmm.machine.vocabulary import fold
from hostmm.policies import POLICIES
from hostmm.stages import STAGES
from shootdown.errors import UsageError
from shootdown.report.steps import Line, compare, merge, select
from shootdown.report.steps_page import page
from tests.tb.cli import ROOT, shootdown


@cache
def comparisons():
    return tuple(compare(stage) for stage in STAGES.values())


@pytest.mark.slow
def test_each_column_is_what_its_policy_did():
    for comparison in comparisons():
        for name, passage in comparison.passages.items():
            column = [line.word for line in comparison.lines if name in line.policies]
            assert column == (fold(passage.words) if passage else []), comparison.stage.name
            assert (passage is None) is not comparison.stage.possible(POLICIES[name])


def test_a_callback_that_moved_stands_on_two_lines():
    (copy,) = (one for one in comparisons() if one.stage.name == "do_wp_page")
    lines = [line for line in copy.lines if line.word == "INVP"]
    assert [line.policies for line in lines] == [{"v9", "v2.6.27"}, {"seed"}]
    assert all(line.callback and not copy.common(line) for line in lines)


@pytest.mark.slow
def test_the_page_in_docs_is_what_is_executed_today():
    written = (ROOT / "docs" / "kernel.md").read_text()
    assert written == page(comparisons()), (
        "write it again: shootdown policies --markdown docs/kernel.md"
    )


@given(st.lists(st.lists(st.sampled_from("abcd")), min_size=1, max_size=4))
def test_merging_keeps_every_sequence(sequences):
    named = {str(number): words for number, words in enumerate(sequences)}
    lines = merge(named)
    for name, words in named.items():
        assert [line.word for line in lines if name in line.policies] == words
    assert len(lines) <= sum(map(len, sequences))


def test_what_two_have_in_common_is_on_one_line():
    lines = merge({"old": ["PTL", "CLR", "INVP", "PTU"], "new": ["PTL", "CLR", "PTU", "INVP"]})
    assert [(line.word, len(line.policies)) for line in lines] == [
        ("PTL", 2),
        ("CLR", 2),
        ("INVP", 1),
        ("PTU", 2),
        ("INVP", 1),
    ]


@pytest.mark.parametrize(
    ("word", "callback"),
    [("INVP", True), ("{CFY}*2", True), ("{clr RM-}*2", False), ("PTL", False)],
)
def test_a_callback_is_known_inside_a_repetition(word, callback):
    assert Line(word, frozenset()).callback is callback


def test_a_path_selects_every_stage_of_it():
    assert [stage.name for stage in select(["zap_page_range"])] == [
        "zap_page_range",
        "zap_page_range, dirty shared",
    ]
    assert select([]) == list(STAGES.values())
    with pytest.raises(UsageError, match=r"path must be one of __xip_unmap, .*, not 'do_wp'"):
        select(["do_wp"])


def test_the_command_prints_the_policies_and_writes_what_it_is_told_to(tmp_path):
    run = shootdown(["policies", "do_wp_page", "--json", "steps.json"], tmp_path)
    assert run.returncode == 0, run.stderr
    assert [name for name in POLICIES if name in run.stdout.splitlines()[1]] == list(POLICIES)
    stage, *_ = json.loads((tmp_path / "steps.json").read_bytes())
    assert stage["policies"]["seed"]["steps"][-3:] == ["INVP", "PUT", "PUT"]
    assert stage["policies"]["seed"]["held"] == ["MM-R", "PTL"]


def test_what_cannot_be_written_or_is_not_a_path_ends_in_one_line(tmp_path):
    for words in (["nothing"], ["do_wp_page", "--json", "missing/steps.json"]):
        run = shootdown(["policies", *words], tmp_path)
        assert run.returncode == 2
        assert run.stderr.startswith("shootdown: ")
        assert len(run.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
