"""Python's cycle collector is off inside, and as it was outside."""

import gc

from shootdown.collector import no_collection


def test_the_collector_comes_back() -> None:
    """Also where a block stands in another, and where it raises."""
    assert gc.isenabled()
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_was_off_stays_off() -> None:
    """It is not ours to switch on."""
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
