"""Parameters: what is refused, what follows from what."""

from dataclasses import replace

import pytest

from secmmu.config import PRESETS, SecmmuConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 6}, "levels must be an integer from 3 to 5, not 6"),
        ({"tlb_sets": 3}, "tlb_sets must be a power of two from 2 to 256, not 3"),
        ({"tlb_sets": 1}, "tlb_sets must be a power of two from 2 to 256, not 1"),
        ({"walks": 17}, "walks must be an integer from 1 to 16, not 17"),
        ({"walks": 4.0}, "walks must be an integer from 1 to 16, not 4.0"),
        ({"outstanding": 24}, "outstanding must be a power of two from 1 to 1024, not 24"),
        ({"contexts": 32}, r"contexts must be at most 2\*\*asid_bits, which is 16, not 32"),
        ({"walks": 8, "waiters": 4, "stalls": 0}, "walks must be at most waiters, which is 4"),
        ({"waiters": 8, "stalls": 5}, "stalls must be at most half of waiters, which is 4, not 5"),
        ({"mutant": "none"}, "mutant must be one of rtl-"),
    ],
)
def test_refuses_what_cannot_be_built(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecmmuConfig(**changes)


def test_presets_are_what_the_documentation_promises() -> None:
    tiny, default = PRESETS["tiny"], PRESETS["default"]
    assert (tiny.tlb_entries, tiny.outstanding, tiny.use_slots, tiny.walks) == (16, 16, 4, 4)
    assert default.tlb_sets * default.tlb_ways == 1024
    assert (default.outstanding, default.use_slots, default.walks, default.filters) == (
        128,
        16,
        8,
        8,
    )
    assert PRESETS["test"] == SecmmuConfig()


def test_derived_values() -> None:
    config = SecmmuConfig(levels=5, tlb_sets=0, large_entries=5, walks=1, outstanding=2)
    assert (config.vpn_bits, config.tlb_entries, config.set_bits) == (45, 5, 0)
    assert (config.walk_bits, config.outstanding_per_id, config.lookup_latency) == (1, 1, 1)
    assert replace(config, tlb_sets=64).lookup_latency == 3
    assert replace(config, tlb_sets=64, tlb_ways=2).tlb_entries == 133
    assert PRESETS["default"].outstanding_per_id == 8
