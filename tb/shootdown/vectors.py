"""Reads the translation vectors: page tables and accesses with the answers of an independent model."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Vector", "Vectors", "load_vectors"]

_NAPOT = 1 << 63


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
    """A set: words of the image that are not zero, the image's size in bytes, the accesses."""

    words: dict[int, int]
    image_bytes: int
    accesses: list[Vector]

    def read(self, address: int) -> int | None:
        """Give a word of the image; None outside."""
        return self.words.get(address, 0) if address < self.image_bytes else None

    def meets_napot(self, vector: Vector) -> bool:
        """Say whether the walk of an access meets a PTE with N set, which means nothing without Svnapot."""
        table = vector.root_ppn
        for level in (2, 1, 0):
            pte = self.read(table * 4096 + (vector.va >> 12 + 9 * level & 0x1FF) * 8)
            if pte is None or pte & _NAPOT:
                return pte is not None
            if not pte & 1 or pte & 0b1010:
                return False
            table = pte >> 10 & (1 << 44) - 1
        return False


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
    return Vectors({at: word for at, word in words.items() if word}, len(image), accesses)
