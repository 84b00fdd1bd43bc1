"""``shootdown hmm``: the scenarios of the kernel's hmm-tests, with every invariant checked beside their data."""

import argparse
from pathlib import Path

from hostmm.scenarios.litmus import hmm
from shootdown.commands.litmus import add_options, run_suite
from shootdown.run.config import MODEL

__all__ = ["NOT_COVERED", "add_parser"]

NOT_COVERED = {
    "open_close": "opens and closes a device file, which the model does not have",
    "migrate": "needs device memory",
    "migrate_fault": "needs device memory",
    "migrate_release": "needs device memory",
    "migrate_shared": "needs device memory",
    "migrate_mixed": "needs device memory",
    "migrate_multiple": "needs device memory",
    "compound": "looks at the size of what hmm_range_fault returns; anon_write_huge uses such a page",
    "exclusive": "needs device-exclusive entries",
    "exclusive_mprotect": "needs device-exclusive entries",
    "exclusive_cow": "needs device-exclusive entries",
    "hmm_gup_test": "a pin forces a page back from device memory",
    "hmm_cow_in_device": "needs device memory",
}
"""The tests that are not re-expressed, and why."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("hmm", help="play the scenarios of the kernel's hmm-tests")
    subscribers = ("sva", "kvm", "gru", "odp")
    out = Path("out/hmm")
    add_options(
        parser, hmm(), policies=("v6.6",), subscribers=subscribers, out=out, simulator=MODEL
    )
    parser.set_defaults(command=lambda chosen: run_suite(chosen, hmm()))
