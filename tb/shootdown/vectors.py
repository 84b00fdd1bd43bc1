"""Reads the translation vectors: page tables and accesses with the answers of an independent model."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Vector", "Vectors", "load_vectors"]


@dataclass(frozen=True)
class Vector:
    """One access and its answer: ``pa``, or the ``cause`` of its fault."""

    asid: int
    root_ppn: int
    va: int
    write: bool
    pa: int | None
    cause: int | None


@dataclass(frozen=True)
class Vectors:
    """A set: words of the image that are not zero, the image's size in bytes, the accesses, the words they change."""

    words: dict[int, int]
    image_bytes: int
    accesses: list[Vector]
    changed: dict[int, int]

    def read(self, address: int) -> int | None:
        """Give a word of the image; None outside."""
        return self.words.get(address, 0) if address < self.image_bytes else None


def load_vectors(folder: Path, name: str) -> Vectors:
    """Read the set ``name`` of ``folder``."""
    image = gzip.decompress((folder / f"{name}.img.gz").read_bytes())
    words = {at: int.from_bytes(image[at : at + 8], "little") for at in range(0, len(image), 8)}
    accesses = []
    lines = (folder / f"{name}.acc").read_text().splitlines()
    answers = (folder / f"{name}.exp.jsonl").read_text().splitlines()
    for line, text in zip(lines, answers, strict=True):
        asid, root, va, kind = line.split()
        answer = json.loads(text)
        pa = int(answer["pa"], 16) if "pa" in answer else None
        accesses.append(
            Vector(int(asid), int(root, 16), int(va, 16), kind == "w", pa, answer.get("cause"))
        )
    text = json.loads((folder / f"{name}.changed.json").read_text())
    changed = {int(at, 16): int(word, 16) for at, word in text.items()}
    return Vectors({at: word for at, word in words.items() if word}, len(image), accesses, changed)
