"""``shootdown walk``: run accesses through the RTL on the page tables of a memory image."""

import argparse
from pathlib import Path

import msgspec

from shootdown.agents.translation import LEVELS
from shootdown.errors import UsageError
from shootdown.files import require_writable, write_whole
from shootdown.simulators.builds import SIMULATORS
from shootdown.walks import WORD_BYTES, read_accesses, read_image, walk

__all__ = ["add_parser"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "walk",
        help="translate accesses through the RTL on the page tables of a memory image",
        description='Prints, a line an access, where it went ({"pa": "0x..."}) or why it was refused'
        ' ({"cause": N}: 13 and 15 load and store page fault, 5 and 7 load and store access fault).',
    )
    add = parser.add_argument
    add("--image", type=Path, required=True, metavar="FILE", help="raw physical memory")
    add("--base", required=True, metavar="ADDR", help="physical address of its first byte")
    add(
        "--accesses",
        type=Path,
        required=True,
        metavar="FILE",
        help="8-byte accesses as user-mode data, one a line: asid root_ppn va r|w",
    )
    add("--mode", choices=tuple(LEVELS), default="sv39", help="default: %(default)s")
    add(
        "--ad",
        choices=("svade", "svadu"),
        default="svade",
        help="A or D unset: a page fault, or set by the hardware; default: %(default)s",
    )
    add("--sim", choices=SIMULATORS, default=SIMULATORS[0], help="default: %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the answers here as well, as one array")
    add("--image-out", type=Path, metavar="FILE", help="write the image after the accesses here")
    parser.set_defaults(command=_walk)


def _walk(chosen: argparse.Namespace) -> int:
    base = _base(chosen.base)
    image = read_image(chosen.image, base)
    accesses = read_accesses(chosen.accesses)
    require_writable(chosen.json, chosen.image_out)
    answers, changed = walk(
        accesses,
        image,
        base=base,
        mode=chosen.mode,
        svadu=chosen.ad == "svadu",
        simulator=chosen.sim,
    )
    if chosen.json is not None:
        write_whole(chosen.json, msgspec.json.format(msgspec.json.encode(answers)))
    if chosen.image_out is not None:
        write_whole(chosen.image_out, changed)
    for answer in answers:
        print(msgspec.json.format(msgspec.json.encode(answer), indent=0).decode())
    return 0


def _base(text: str) -> int:
    try:
        base = int(text, 0)
    except ValueError:
        base = -1
    if base < 0 or base % WORD_BYTES:
        raise UsageError(f"--base must be an address and a multiple of {WORD_BYTES}, not {text!r}")
    return base
