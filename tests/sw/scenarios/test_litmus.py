"""The litmus language: what it reads, what it refuses and how, and that scripts play as they are written."""

import re
from pathlib import Path

import pytest

from hostmm.audit import check_counts
from hostmm.errors import HostError
from hostmm.policies import POLICIES
from hostmm.scenarios import ALLOWED, FORBIDDEN
from hostmm.scenarios.litmus import Litmus, LitmusError, parse, read, shipped
from hostmm.scenarios.litmus.steps import VERBS
from hostmm.subscribers.kinds import SUBSCRIBERS
from tests.sw.hosts import Host

HEAD = "title: t\nmm P: 2 cpus\npage p: anon\npage q: tmpfs shared 2 pages\ndevice D: P\n"
TABLE = "| C0 | D |\n|----|---|\n"
GOOD = HEAD + TABLE + "| store p = 1 | r = load p |\nforbidden: r == 2\n"


def play(text, *, policy="v9", subscriber="sva", seed=1):
    """Play a script on the model; returns (outcome, host)."""
    litmus = Litmus(parse(text, name="t", where="t.litmus"))
    host = Host(policy=POLICIES[policy], frames=litmus.frames, seed=seed)
    litmus.build(host.machine, SUBSCRIBERS[subscriber].bind)
    host.run()
    return litmus.outcome(host.machine.timeline.columns()), host


def detail(text, **options):
    return play(text, **options)[0].detail


def script(*rows, columns="| C0 | D |", forbidden="r == 99"):
    rule = "|" + "---|" * (columns.count("|") - 1)
    return "\n".join((HEAD, columns, rule, *rows, f"forbidden: {forbidden}", ""))


@pytest.mark.parametrize(
    ("bad", "line", "message"),
    [
        ("titel: x\n" + GOOD, 1, "'titel: x' is no line of a script; lines begin with title"),
        ("title: x\n" + GOOD, 2, "title: stands here twice"),
        (GOOD.replace("mm P: 2 cpus", "mm P: many"), 2, "says nothing about an mm; 1 to 16 cpus"),
        (GOOD.replace("page p: anon", "page p: huge"), 3, "names no kind of page; a kind (anon"),
        (GOOD.replace("page p: anon", "page p: anon shared"), 3, "of kind anon is private"),
        (GOOD.replace("page p: anon", "page p: anon blue"), 3, "'blue' cannot be said of a page"),
        (GOOD.replace("page p: anon", "page p: pfn 2 pages"), 3, "of kind pfn stands alone"),
        (GOOD.replace("page p: anon", "page p: kernel 2 pages"), 3, "of kind kernel stands alone"),
        (GOOD.replace("page p: anon", "page p: hugetlb 8 pages"), 3, "is a multiple of 2 MiB"),
        (GOOD.replace("page p: anon", "page p: anon = 3"), 3, "has no value at the start"),
        (GOOD.replace("device D: P", "device D: Q"), 5, "no mm 'Q'; mms so far: P"),
        (
            GOOD.replace("device D: P", "device E: P"),
            None,
            "device E has no column; columns: C0, D",
        ),
        (GOOD.replace("| C0 | D |", "| C0 | C0 |"), 6, "there is a thread 'C0' already"),
        (GOOD.replace("|----|---|\n", ""), 7, "steps before the rule"),
        (
            GOOD.replace("| store p = 1 | r = load p |", "| store p = 1 |"),
            8,
            "1 cells in a table of",
        ),
        (GOOD.replace("r = load p |", "r = load p"), 8, "ends without |"),
        (
            GOOD.replace("store p = 1", "stor p = 1"),
            8,
            "'stor p = 1' is no step of a CPU; steps: s",
        ),
        (GOOD.replace("r = load p", "munmap p"), 8, "'munmap p' is no step of a device; steps: "),
        (
            GOOD.replace("store p = 1", "store p"),
            8,
            "does not fit; it reads: store ADDRESS = VALUE",
        ),
        (GOOD.replace("store p = 1", "store x = 1"), 8, "'x' is no address; pages: p, q"),
        (GOOD.replace("store p = 1", "store p+1 = 1"), 8, "lies outside; p has 1 pages"),
        (GOOD.replace("store p = 1", "store Z.p = 1"), 8, "no mm 'Z'"),
        (GOOD.replace("store p = 1", "r2 = munmap p"), 8, "munmap has no result"),
        (GOOD.replace("store p = 1", "store p = x"), 8, "'x' is no number"),
        (GOOD.replace("store p = 1", "go on"), 8, "C0 goes on, but does not stall"),
        (GOOD.replace("store p = 1", "exit Q"), 8, "no mm 'Q'; mms: P"),
        (GOOD.replace("store p = 1", "unbind E"), 8, "no device 'E'; devices: D"),
        (GOOD.replace("device D: P", "device D: P usb"), 5, "no kind of device 'usb'; kinds: sva"),
        (
            GOOD.replace("store p = 1", "store p = 1; stalls after unlock of do_wp_pag"),
            8,
            "no mm path 'do_wp_pag'; paths: __xip_unmap, do_wp_page, ",
        ),
        (
            GOOD.replace("2 cpus", f"{'9' * 5000} cpus"),
            2,
            " says nothing about an mm; 1 to 16 cpus",
        ),
        (GOOD.replace("store p = 1", "revoke p"), 8, "p is no page of kind pfn; those are: none"),
        (
            GOOD.replace("device D: P", "device D: P\ndevice E: P\ndevice F: P"),
            7,
            "2 devices at most",
        ),
        (GOOD + "shows: sead/sva\n", 10, "shows: no policy 'sead'; *, v9, seed"),
        (GOOD + "shows: seed/usb\n", 10, "shows: no subscriber 'usb'; *, sva"),
        (GOOD.replace("r == 2", ""), None, "there is no forbidden: line"),
        (GOOD + "timeout: never\n", 10, "'never' is no latency; timeout: N cycles"),
        (
            GOOD.replace("r = load p", "r = load p; stalls before lock of do_wp_page"),
            8,
            "D does not come there; a CPU stalls in an mm path",
        ),
        (GOOD.replace("store p = 1", "fork P"), 8, "there is a mm 'P' already"),
        (
            GOOD.replace("store p = 1", "store p = 1; stalls now"),
            8,
            "says no place; stalls after unlock of PATH",
        ),
        (
            GOOD.replace("store p = 1", "store p = 1; stalls before lunch of do_wp_page"),
            8,
            "no step 'lunch'; steps: ",
        ),
        (
            GOOD.replace("store p = 1", "store p = 1; stalls after unlock of do_wp_page"),
            None,
            "C0 stalls and never goes on",
        ),
        (GOOD.replace("r == 2", "r = 2"), 9, "'r = 2' is no condition; REGISTER == VALUE"),
        (GOOD.replace("r == 2", "x == 2"), 9, "no step sets 'x'; registers: r"),
        (GOOD.replace("r == 2", "I27"), 9, "'I27' is no condition"),
        (GOOD + "shows: seed\n", 10, "shows: 'seed' is no pair; POLICY/SUBSCRIBER"),
        (GOOD + "memory: fast\n", 10, "'fast' is no latency; memory: N cycles"),
        (GOOD + "patience: 0 us\n", 10, "'0 us' is no time; patience: N us, N from 1 to 10000"),
        (GOOD.replace("forbidden: r == 2", ""), None, "there is no forbidden: line"),
        (GOOD.replace("mm P: 2 cpus\n", "").replace("device D: P\n", ""), None, "no mm NAME: line"),
        (HEAD + TABLE + "forbidden: I1\n", None, "the table has no rows"),
    ],
)
def test_an_error_names_the_line_and_what_is_allowed(bad, line, message):
    place = "t.litmus:" if line is None else f"t.litmus:{line}:"
    with pytest.raises(LitmusError, match=re.escape(message)) as caught:
        parse(bad, name="t", where="t.litmus")
    assert str(caught.value).startswith(place)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(LitmusError, match=r"cannot read .*none\.litmus: No such file"):
        read(tmp_path / "none.litmus")
    (tmp_path / "bytes.litmus").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LitmusError, match=r"bytes\.litmus: it is not text"):
        read(tmp_path / "bytes.litmus")


def test_comments_and_order_annotations_are_read():
    text = script("| store.rel p = 1 | |", "| | r = load.acq p |  # a comment")
    assert detail(text) == "r = 1"


def test_rows_wait_for_each_other():
    rows = [f"| store p = {n} | |\n| | r{n} = load p |" for n in range(1, 5)]
    text = script(*rows, forbidden="r1 == 1 and r2 == 2 or r4 != 4")
    outcome, _ = play(text)
    assert outcome.detail == "r1 = 1, r2 = 2, r3 = 3, r4 = 4"
    assert outcome.outcome == FORBIDDEN


def test_rows_below_the_double_rule_run_free():
    free = script(
        "| store p = 1 | |", "|====|====|", "| wait 20000 | r = load p |", "| store p = 2 | |"
    )
    assert detail(free) == "r = 1"


def test_a_condition_may_name_an_invariant():
    litmus = Litmus(parse(GOOD.replace("r == 2", "r == 2 or I4"), name="t", where="t"))
    host = Host(frames=litmus.frames)
    litmus.build(host.machine, SUBSCRIBERS["sva"].bind)
    host.run()
    columns = host.machine.timeline.columns()
    assert litmus.outcome(columns, {"I1"}).outcome == ALLOWED
    assert litmus.outcome(columns, {"I4"}).outcome == FORBIDDEN


def test_a_refused_access_leaves_denied_and_an_unset_register_makes_a_term_false():
    text = script("| munmap p | |", "| r1 = load p | r = load p |", forbidden="r == denied")
    outcome, _ = play(text)
    assert (
        outcome.detail == "r = denied, r1 = denied" or outcome.detail == "r1 = denied, r = denied"
    )
    assert outcome.outcome == FORBIDDEN


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        (("| store p[3] = 7 | |", "| | r = load p[3] |"), "r = 7"),
        (("| store q+1 = 7 | |", "| | r = load q+1 |"), "r = 7"),
        (("| | store q = 8 |", "| r = load q | |"), "r = 8"),
        (("| store p = 7 | |", "| dontneed p | |", "| | r = load p |"), "r = 0"),
        (("| munmap p | |", "| mmap p | |", "| store p = 3 | |", "| | r = load p |"), "r = 3"),
        (("| store p = 7 | |", "| mprotect p none | |", "| | r = load p |"), "r = denied"),
        (("| store p = 7 | |", "| mprotect p r | |", "| | r = load p |"), "r = 7"),
        (("| store p = 7 | |", "| fork C | |", "| store C.p = 9 | |", "| | r = load p |"), "r = 7"),
        (("| store p = 7 | |", "| fork C | |", "| r = load C.p | |"), "r = 7"),
        (("| store p = 7 | |", "| fork C | |", "| exit C | |", "| | r = load p |"), "r = 7"),
        (("| store p = 7 | |", "| mremap p to q | |", "| | r = load q |"), "r = 7"),
        (("| store p = 7 | |", "| r = age p | |"), "r = 1"),
        (("| store p = 7 | |", "| age p | |", "| r = reclaim p | |"), "r = 1"),
        (("| store p = 7 | |", "| r = reclaim p | |"), "r = 0"),
        (("| store p = 7 | |", "| age p | |", "| reclaim p | |", "| r = mapped p | |"), "r = 0"),
        (("| store q = 7 | |", "| r = dirty q | |"), "r = 1"),
        (("| store q = 7 | |", "| truncate q | |", "| | r = load q |"), "r = 0"),
        (("| store p = 7 | |", "| wait 100 | wait 50 |", "| r = disk p | |"), "r = 0"),
    ],
)
def test_each_verb_does_what_it_says(rows, shown):
    assert detail(script(*rows)) == shown


def test_an_address_space_that_has_ended_maps_nothing():
    assert detail(script("| store p = 7 | |", "| exit P | |", "| r = load p | |")) == "r = denied"
    assert detail(script("| store p = 7 | |", "| exit P | |", "| r = mapped p | |")) == "r = 0"


def raw(*rows):
    """A script whose page is a frame without struct page."""
    return script(*rows).replace("page p: anon", "page p: pfn = 5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            script("| store p = 1 | |", "| starve 0 | |", "| fork C | |", "| r = load C.p | |"),
            "there is no address space C: its fork has failed, or not ended",
        ),
        (script("| exit P | |", "| mmap p | |", "| r = load p | |"), "mm 1: nothing can be mapped"),
        (
            raw("| revoke p | |", "| revoke p | |", "| r = load p | |"),
            "has taken the raw frame back",
        ),
        (raw("| revoke p | |", "| r = load p | |"), "has taken the raw frame back"),
    ],
)
def test_what_cannot_be_played_ends_in_one_line(text, message):
    with pytest.raises(HostError, match=message):
        play(text)


def test_a_kernel_page_may_stay_mapped():
    """It is counted as the kernel's."""
    _, host = play(
        script("| vmap k | |", forbidden="I1").replace("device", "page k: kernel\ndevice")
    )
    check_counts(host.machine)


def test_a_file_page_is_written_out_and_a_hole_is_filled():
    text = script("| store f = 7 | |", "| msync f | |", "| r = disk f | |").replace(
        "page p", "page f: file shared\npage p"
    )
    assert detail(text) == "r = 7"
    text = script("| | load h |", "| fill h | |", "| r = mapped h | |").replace(
        "page p", "page h: hole\npage p"
    )
    assert detail(text) == "r = 0"


def test_a_step_stalls_where_it_is_told_and_goes_on():
    text = script(
        "| store p = 1 | | |",
        "| fork C | | |",
        "| store p = 2; stalls before flush_cache of do_wp_page | | |",
        "| | r1 = mapped p | |",
        "| go on | | |",
        "| | r2 = load p | |",
        columns="| C0 | C1 | D |",
        forbidden="r2 == 0",
    )
    assert detail(text) == "r1 = 1, r2 = 2"
    again = text.replace("before flush_cache", "after unlock")
    assert detail(again) == "r1 = 1, r2 = 2"


def test_a_row_does_not_wait_for_ever_for_a_step_that_cannot_go_on():
    text = script(
        "| store p = 1 | | |",
        "| dontneed p; stalls before pte_clear of zap_page_range | | |",
        "| | dontneed p | |",
        "| go on | | |",
        "| | r = mapped p | |",
        columns="| C0 | C1 | D |",
    )
    outcome, host = play(text)
    assert outcome.detail == "r = 0"
    assert host.machine.sched.now > 60_000


@pytest.mark.parametrize("subscriber", SUBSCRIBERS)
@pytest.mark.parametrize("name", shipped())
def test_every_script_names_pairs_that_exist(name, subscriber):
    known = {*POLICIES, "*"}, {*SUBSCRIBERS, "*"}
    for policy, kind in shipped()[name].script.shows:
        assert policy in known[0]
        assert kind in known[1]


def test_the_language_is_documented():
    page = (Path(__file__).parents[3] / "docs/litmus.md").read_text()
    for name in (*VERBS, "go on", "memory", "timeout", "shows", "any invariant"):
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", page), name
