"""The steps of every path under every policy, held against docs/contract.md 1; and how steps are read and written."""

import pytest

from hostmm.audit import audit
from hostmm.machine.timeline import Row
from hostmm.machine.vocabulary import fold, passages
from hostmm.policies import PATHS, POLICIES, QUIET_PATHS
from hostmm.stages import STAGES, Setting
from tests.sw.hosts import Host

STEPS = {
    "__xip_unmap": {
        "v9 v2.6.27": "| RLK PTL FC CLR INVP RM- RSS PTU PUT RLU",
        "seed v3.7": "| RLK PTL FC CLR RM- RSS PTU INVP PUT RLU",
        "emm": "| RLK RS PTL FC CLR RM- RSS PTU PUT RE RLU",
    },
    "do_wp_page": {
        "v9": "MM-R PTL | GET PTU COPY PTL RM- {RSS}*2 FC CLR INVP SET(W,D) RM+ {PUT}*2 PTU",
        "seed": "MM-R PTL | GET PTU COPY PTL RM- {RSS}*2 FC CLR SET(W,D) RM+ PTU INVP {PUT}*2",
        "emm": "MM-R PTL | GET PTU COPY RS PTL RM- {RSS}*2 FC CLR SET(W,D) RM+ {PUT}*2 PTU RE",
        "v2.6.27": "MM-R PTL | GET PTU COPY PTL {RSS}*2 FC CLR INVP SET(W,D) RM+ RM- {PUT}*2 PTU",
        "v3.7": "MM-R PTL | GET PTU COPY RS PTL {RSS}*2 FC CLR RM+ CHG SET(W,D) RM- PUT PTU RE PUT",
        "v4.13": "MM-R PTL | GET PTU COPY RS PTL {RSS}*2 FC CLR IVR RM+ CHG SET(W,D) RM- PUT PTU IVR RE PUT",
        "v6.6": "MM-R PTL | GET PTU COPY RS PTL {RSS}*2 FC CLR IVR RM+ SET(W,D) RM- PTU RE {PUT}*2",
    },
    "page_referenced_one": {
        "v9 v2.6.27 v3.7 v4.13 v6.6": "PGL RLK | PTL YNG CFY PTU",
        "seed": "PGL RLK | PTL YNG PTU CFY",
        "emm": "PGL RLK | PTL YNG PTU",
    },
    "page_mkclean_one": {
        "v9 v2.6.27": "PGL RLK | PTL FC CLR INVP SET(RO) PTU",
        "seed v3.7": "PGL RLK | PTL FC CLR SET(RO) PTU INVP",
        "emm": "PGL RLK | RS PTL FC CLR SET(RO) PTU RE",
        "v4.13": "PGL RLK | RS PTL FC CLR SET(RO) IVR PTU IVR RE",
        "v6.6": "PGL RLK | RS PTL FC CLR IVR SET(RO) PTU RE",
    },
    "try_to_unmap_one": {
        "v9 v2.6.27": "PGL RLK | PTL CFY FC CLR INVP DRT RSS SET(swap) RM- PUT PTU",
        "seed": "PGL RLK | PTL FC CLR DRT RSS SET(swap) RM- PUT PTU INVP",
        "emm": "PGL RLK | RS PTL FC CLR DRT RSS SET(swap) RM- PUT PTU RE",
        "v3.7": "PGL RLK | PTL CFY FC CLR DRT RSS SET(swap) RM- PUT PTU INVP",
        "v4.13": "PGL RLK | RS PTL CFY FC CLR DRT RSS SET(swap) RM- PUT IVR PTU IVR RE",
        "v6.6": "PGL RLK | RS PTL FC CLR IVR DRT RSS SET(swap) RM- PUT PTU RE",
    },
    "try_to_unmap_one, batched": {
        "v4.13": "PGL RLK | RS PTL CFY FC clr DRT RSS SET(swap) RM- PUT IVR PTU IVR RE",
        "v6.6": "PGL RLK | RS PTL FC clr IVR DRT RSS SET(swap) RM- PUT PTU RE",
    },
    "try_to_unmap_flush": {
        "v4.13 v6.6": "PGL | FLUSH",
    },
    "try_to_unmap_cluster": {
        "v9 v2.6.27": "PGL RLK | PTL CFY FC CLR INVP SET(file) DRT RM- PUT RSS YNG {CFY}*2 FC CLR INVP RM- PUT RSS PTU",
        "seed emm": "PGL RLK | RS PTL FC CLR SET(file) DRT RM- PUT RSS YNG FC CLR RM- PUT RSS PTU RE",
        "v3.7": "PGL RLK | RS PTL CFY FC CLR SET(file) DRT RM- PUT RSS YNG {CFY}*2 FC CLR RM- PUT RSS PTU RE",
    },
    "get_user_pages": {
        "v9 seed emm v2.6.27 v3.7 v4.13 v6.6": "| MM-R PTL GET PTU MMU",
    },
    "unmap_region": {
        "v9 seed emm": "MM-W | RS PTL {clr RM-}*2 RSS PTU RLK RLU FLUSH {FREE}*2 RE",
        "v2.6.27 v3.7": "MM-W | RS PTL {clr RM-}*2 RSS PTU RE RLK RLU FLUSH {FREE}*2",
        "v4.13": "MM-W | RS PTL {clr RM-}*2 RSS PTU IVR RE RLK RLU FLUSH IVR {FREE}*2",
        "v6.6": "MM-W | RS PTL {clr RM-}*2 RSS PTU RE RLK RLU FLUSH IVR {FREE}*2",
    },
    "zap_page_range": {
        "v9 seed emm": "MM-R | RS PTL {clr RM-}*2 RSS PTU FLUSH {FREE}*2 RE",
        "v2.6.27 v3.7": "MM-R | RS PTL {clr RM-}*2 RSS PTU RE FLUSH {FREE}*2",
        "v4.13": "MM-R | RS PTL {clr RM-}*2 RSS PTU IVR RE FLUSH IVR {FREE}*2",
        "v6.6": "MM-R | RS PTL {clr RM-}*2 RSS PTU RE FLUSH IVR {FREE}*2",
    },
    "zap_page_range, dirty shared": {
        "v9 seed emm": "MM-R | RS PTL {clr DRT RM-}*2 RSS PTU FLUSH {PUT}*2 RE",
        "v2.6.27 v3.7": "MM-R | RS PTL {clr DRT RM-}*2 RSS PTU RE FLUSH {PUT}*2",
        "v4.13": "MM-R | RS PTL {clr DRT RM-}*2 RSS FLUSH IVR PTU {PUT}*2 IVR RE",
        "v6.6": "MM-R | RS PTL {clr DRT RM-}*2 RSS FLUSH IVR PTU {PUT}*2 RE",
    },
    "madvise_free_single_vma": {
        "v4.13": "MM-R | RS PTL {clr SET(W)}*2 PTU IVR RE FLUSH IVR",
        "v6.6": "MM-R | RS PTL {clr SET(W)}*2 PTU RE FLUSH IVR",
    },
    "unmap_mapping_range": {
        "v9 seed emm": "RLK | RS PTL {clr RM-}*2 RSS PTU FLUSH {PUT}*2 RE",
        "v2.6.27 v3.7": "RLK | RS PTL {clr RM-}*2 RSS PTU RE FLUSH {PUT}*2",
        "v4.13": "RLK | RS PTL {clr RM-}*2 RSS PTU IVR RE FLUSH IVR {PUT}*2",
        "v6.6": "RLK | RS PTL {clr RM-}*2 RSS PTU RE FLUSH IVR {PUT}*2",
    },
    "mprotect": {
        "v9 seed emm v2.6.27 v3.7": "MM-W | RS PTL {clr SET(RO,D)}*2 PTU FLUSH RE",
        "v4.13": "MM-W | RS PTL {clr SET(RO,D)}*2 PTU IVR RE FLUSH",
        "v6.6": "MM-W | RS PTL {clr SET(RO,D)}*2 PTU RE FLUSH IVR",
    },
    "mremap": {
        "v9 seed emm v2.6.27": "MM-W | RS {PTL}*2 {CLR SET(W,D)}*2 {PTU}*2 RE",
        "v3.7": "MM-W | RS {PTL}*2 {clr SET(W,D)}*2 {PTU}*2 FLUSH RE",
        "v4.13": "MM-W | RS {PTL}*2 {clr SET(W,D)}*2 FLUSH {PTU}*2 IVR RE",
        "v6.6": "MM-W | RS {PTL}*2 {clr SET(W,D)}*2 FLUSH IVR {PTU}*2 RE",
    },
    "fork": {
        "v9 seed emm v2.6.27 v3.7": "MM-W MM-W | RLK RLU RS {PTL}*2 {SET(RO,D) GET RM+ SET(RO,D)}*2 PTU RSS PTU RE FLUSH",
        "v4.13": "MM-W MM-W | RLK RLU RS {PTL}*2 {SET(RO,D) GET RM+ SET(RO,D)}*2 PTU RSS PTU IVR RE FLUSH",
        "v6.6": "MM-W MM-W | RLK RLU RS {PTL}*2 {SET(RO,D) GET RM+ SET(RO,D)}*2 PTU RSS PTU RE FLUSH IVR",
    },
    "exit_mmap": {
        "v9 seed emm": "| UNHASH REL ARCH MM-W PTL {clr RM-}*2 RSS PTU RLK RLU FLUSH {FREE}*5 MMU",
        "v2.6.27": "| ARCH UNHASH REL MM-W PTL {clr RM-}*2 RSS PTU RLK RLU FLUSH {FREE}*5 MMU",
        "v3.7 v4.13 v6.6": "| REL UNHASH ARCH MM-W PTL {clr RM-}*2 RSS PTU RLK RLU FLUSH {FREE}*5 MMU",
    },
    "write_protect_page": {
        "v3.7": "MM-R PGL | RS PTL FC CLR DRT CHG SET(RO) PTU RE",
        "v4.13": "MM-R PGL | RS PTL FC CLR IVR DRT CHG SET(RO) PTU IVR RE",
        "v6.6": "MM-R PGL | RS PTL FC CLR IVR DRT SET(RO) PTU RE",
    },
    "replace_page": {
        "v3.7": "MM-R PGL | RS PTL GET RM+ FC CLR CHG SET(RO) RM- PUT PTU RE",
        "v4.13": "MM-R PGL | RS PTL GET RM+ FC CLR IVR CHG SET(RO) RM- PUT PTU IVR RE",
        "v6.6": "MM-R PGL | RS PTL GET RM+ FC CLR IVR SET(RO) RM- PUT PTU RE",
    },
    "unmap_and_move": {
        "v9 v2.6.27": "| {PGL}*2 RLK PTL FC CLR INVP DRT SET(migration) RM- PUT PTU RLU COPY CLN DRT RLK PTL GET SET(W) RM+ PTU RLU {PGU}*2",
        "seed v3.7": "| {PGL}*2 RLK PTL FC CLR DRT SET(migration) RM- PUT PTU INVP RLU COPY CLN DRT RLK PTL GET SET(W) RM+ PTU RLU {PGU}*2",
        "emm": "| {PGL}*2 RLK RS PTL FC CLR DRT SET(migration) RM- PUT PTU RE RLU COPY CLN DRT RLK PTL GET SET(W) RM+ PTU RLU {PGU}*2",
        "v4.13": "| {PGL}*2 RLK RS PTL FC CLR DRT SET(migration) RM- PUT IVR PTU IVR RE RLU COPY CLN DRT RLK PTL GET SET(W) RM+ PTU RLU {PGU}*2",
        "v6.6": "| {PGL}*2 RLK RS PTL FC CLR IVR DRT SET(migration) RM- PUT PTU RE RLU COPY CLN DRT RLK PTL GET SET(W) RM+ PTU RLU {PGU}*2",
    },
    "try_to_migrate_one": {
        "v6.6": "PGL PGL RLK | RS PTL FC CLR IVR DRT SET(migration) RM- PUT PTU RE",
    },
    "remove_migration_pte": {
        "v9 seed emm v2.6.27 v3.7 v4.13 v6.6": "PGL PGL RLK | PTL GET SET(W) RM+ PTU",
    },
    "clear_refs_write": {
        "v4.13": "MM-W | RS PTL {clr SET(RO,D)}*2 PTU IVR RE FLUSH",
        "v6.6": "MM-W | RS PTL {clr SET(RO,D)}*2 PTU RE FLUSH IVR",
    },
    "mremap, 2 MiB of PTEs": {
        "v9 seed emm v2.6.27": "MM-W | RS {PTL}*2 {CLR SET(W,D)}*2 {PTU}*2 RE",
        "v3.7": "MM-W | RS {PTL}*2 {clr SET(W,D)}*2 {PTU PTU PTL PTL}*7 {PTU}*2 FLUSH RE",
        "v4.13": "MM-W | RS {PTL}*2 {clr SET(W,D)}*2 FLUSH {PTU PTU PTL PTL}*7 {PTU}*2 IVR RE",
        "v6.6": "MM-W | RS RLK PTL clr.2M SET(table).2M FLUSH IVR PTU RLU RE",
    },
    "collapse_huge_page": {
        "v3.7": "MM-W | RLK RS PTL CLR.2M PTU RE PTL PTU RLU {COPY PTL RM- PTU FREE}*2 {ZERO}*510 PTL {RM+}*512 RSS SET(W,D).2M PTU",
        "v4.13": "MM-W | RLK RS PTL CLR.2M PTU IVR RE PTL PTU RLU {COPY PTL RM- PTU FREE}*2 {ZERO}*510 PTL {RM+}*512 RSS SET(W,D).2M PTU",
        "v6.6": "MM-W | RLK RS PTL CLR.2M IVR PTU RE PTL PTU RLU {COPY PTL RM- PTU FREE}*2 {ZERO}*510 PTL {RM+}*512 RSS SET(W,D).2M PTU",
    },
    "split_huge_page": {
        "v3.7": "RLK | RS PTL SET(splitting).2M FLUSH PTU RE PTL CLR.2M SET(table).2M PTU",
    },
    "__split_huge_pmd": {
        "v4.13": "| RS PTL CLR.2M IVR SET(table).2M PTU IVR RE",
        "v6.6": "| RS PTL CLR.2M IVR SET(table).2M PTU RE",
    },
    "migrate_misplaced_transhuge_page": {
        "v4.13": "PGL | {COPY}*512 RS PTL CLR.2M IVR SET(W,D).2M {RM+}*512 {RM-}*512 PTU IVR RE",
    },
    "unmap_region, 2 MiB leaf": {
        "v3.7": "MM-W | RS PTL clr.2M {RM-}*512 RSS FREE PTU RE RLK RLU FLUSH {FREE}*512",
        "v4.13": "MM-W | RS PTL clr.2M {RM-}*512 RSS FREE PTU IVR RE RLK RLU FLUSH IVR {FREE}*512",
        "v6.6": "MM-W | RS PTL clr.2M {RM-}*512 RSS FREE PTU RE RLK RLU FLUSH IVR {FREE}*512",
    },
    "madvise_free_single_vma, 2 MiB leaf": {
        "v4.13": "MM-R | RS PTL clr.2M SET(W).2M PTU IVR RE FLUSH IVR",
        "v6.6": "MM-R | RS PTL clr.2M SET(W).2M PTU RE FLUSH IVR",
    },
    "mremap, 2 MiB leaf": {
        "v3.7": "MM-W | RS PTL clr.2M SET(W,D).2M PTU FLUSH RE",
        "v4.13": "MM-W | RS PTL clr.2M SET(W,D).2M FLUSH PTU IVR RE",
        "v6.6": "MM-W | RS RLK PTL clr.2M SET(W,D).2M FLUSH IVR PTU RLU RE",
    },
    "hugetlb_cow": {
        "v9 seed emm v2.6.27": "MM-R PGL PTL | GET PTU {COPY}*512 PTL CLR.2M SET(W,D).2M {RSS}*2 {RM-}*512 {RM+}*512 {PUT}*513 PTU",
        "v3.7": "MM-R PGL PTL | GET PTU {COPY}*512 RS PTL CLR.2M SET(W,D).2M {RSS}*2 {RM-}*512 {RM+}*512 PTU RE {PUT}*513",
        "v4.13": "MM-R PGL PTL | GET PTU {COPY}*512 RS PTL CLR.2M IVR SET(W,D).2M {RSS}*2 {RM-}*512 {RM+}*512 PTU IVR RE {PUT}*513",
        "v6.6": "MM-R PGL PTL | GET PTU {COPY}*512 RS PTL CLR.2M IVR SET(W,D).2M {RSS}*2 {RM-}*512 {RM+}*512 PTU RE {PUT}*513",
    },
    "copy_hugetlb_page_range": {
        "v9 seed emm v2.6.27 v3.7": "MM-W MM-W | {PTL}*2 SET(RO,D).2M {GET}*512 {RM+}*512 RSS SET(RO,D).2M {PTU}*2",
        "v4.13": "MM-W MM-W | RS {PTL}*2 SET(RO,D).2M {GET}*512 {RM+}*512 RSS SET(RO,D).2M {PTU}*2 IVR RE",
        "v6.6": "MM-W MM-W | RS {PTL}*2 SET(RO,D).2M {GET}*512 {RM+}*512 RSS SET(RO,D).2M {PTU}*2 RE",
    },
    "do_wp_page, in place": {
        "v9 seed emm v2.6.27 v3.7 v4.13": "MM-R PTL | SET(W,D) FLUSH PTU",
        "v6.6": "MM-R PTL | SET(W,D) FLUSH IVR PTU",
    },
    "do_wp_page, no struct page": {
        "v9 v2.6.27": "MM-R PTL | PTU COPY PTL RSS FC CLR INVP SET(W,D) RM+ PTU",
        "seed": "MM-R PTL | PTU COPY PTL RSS FC CLR SET(W,D) RM+ PTU",
        "emm": "MM-R PTL | PTU COPY RS PTL RSS FC CLR SET(W,D) RM+ PTU RE",
        "v3.7": "MM-R PTL | PTU COPY RS PTL RSS FC CLR RM+ CHG SET(W,D) PTU RE",
        "v4.13": "MM-R PTL | PTU COPY RS PTL RSS FC CLR IVR RM+ CHG SET(W,D) PTU IVR RE",
        "v6.6": "MM-R PTL | PTU COPY RS PTL RSS FC CLR IVR RM+ SET(W,D) PTU RE",
    },
    "page_referenced_one, old": {
        "v9 v2.6.27 v3.7 v4.13 v6.6": "PGL RLK | PTL CFY PTU",
        "seed emm": "PGL RLK | PTL PTU CFY",
    },
    "fork, out of memory": {
        "v9 seed emm": "MM-W MM-W | RLK RLU RS FLUSH",
        "v2.6.27 v3.7": "MM-W MM-W | RLK RLU RS RE FLUSH",
        "v4.13": "MM-W MM-W | RLK RLU RS IVR RE FLUSH",
        "v6.6": "MM-W MM-W | RLK RLU RS RE FLUSH IVR",
    },
    "pmd_free_pte_page": {
        "v9 seed emm v2.6.27 v3.7 v4.13 v6.6": "| clr.2M FLUSH {FREE}*2",
    },
    "migrate_vma": {
        "v6.6": "MM-R | RS PTL {PGL GET FC CLR IVR DRT SET(migration) RM- PUT}*2 FLUSH IVR PTU RE "
        "{PGL COPY CLN DRT RLK PTL GET SET(W) RM+ PTU RLU PGU PGU FREE PUT}*2",
    },
    "migrate_vma_collect": {
        "v6.6": "MM-R | RS PTL {PGL GET FC CLR IVR DRT SET(migration) RM- PUT}*2 FLUSH IVR PTU RE",
    },
}
"""Stage to policies to the locks held and the steps, as docs/contract.md 1 has them."""

CELLS = [
    (name, policy, order)
    for name, orders in STEPS.items()
    for policies, order in orders.items()
    for policy in policies.split()
]


def play(name, policy):
    """Play a stage to its end, audit, and return its host."""
    stage = STAGES[name]
    host = Host(policy=POLICIES[policy], frames=stage.frames)
    setting = Setting(host.machine)

    def main():
        yield from stage.play(setting)
        yield from audit(host.machine)

    host.run(main())
    return host


@pytest.mark.parametrize(("name", "policy", "order"), CELLS)
def test_a_path_takes_the_steps_of_its_kernel(name, policy, order):
    host = play(name, policy)
    first = passages(host.machine.timeline, STAGES[name].path)[0]
    assert f"{' '.join(first.held)} | {' '.join(fold(first.words))}".strip() == order
    assert not host.rows(Row.SLEEP_IN_ATOMIC, Row.LOCK_INVERSION)


def test_every_path_of_every_policy_has_its_steps_here():
    played = {(name, policy) for name, policy, _ in CELLS}
    assert played == {
        (stage.name, policy.name)
        for policy in POLICIES.values()
        for stage in STAGES.values()
        if stage.possible(policy)
    }
    assert {stage.path for stage in STAGES.values()} | {"fork"} >= {*PATHS}
    assert {stage.path for stage in STAGES.values()} >= {*QUIET_PATHS}


@pytest.mark.parametrize(
    ("words", "folded"),
    [
        ("", ""),
        ("a", "a"),
        ("a a", "{a}*2"),
        ("a b a b a b c", "{a b}*3 c"),
        ("x a a b a a b", "x {a a b}*2"),
        ("a a a b", "{a}*3 b"),
    ],
)
def test_what_repeats_is_written_once(words, folded):
    assert " ".join(fold(words.split())) == folded
