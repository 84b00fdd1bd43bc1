"""The register map, in every form that it is given out in."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from secmmu.csr import EMULATOR_REGISTERS, REGISTERS, context_register
from secmmu.csr_export import c_header, markdown, system_rdl

DOCS = Path(__file__).parents[2] / "docs" / "registers.md"

USER = """\
#include "secmmu.h"
_Static_assert(SECMMU_MMU_TIMEOUT == 0x20, "offset");
_Static_assert(SECMMU_CONTEXT(3) == 0x818, "stride");
_Static_assert(SECMMU_GET(0x5ecc0002, SECMMU_IDENTITY_DESIGN) == 0x5ecc, "field");
_Static_assert(SECMMU_PUT(8, SECMMU_CONTEXT_MODE) == UINT64_C(8) << 60, "field");
uint64_t use(void *base);
uint64_t use(void *base)
{
    secmmu_write(base, SECMMU_CONTEXT(1), SECMMU_PUT(5, SECMMU_CONTEXT_ROOT_PPN));
    return secmmu_read(base, SECMMU_MMU_WALKS);
}
"""


def test_registers_do_not_overlap() -> None:
    taken = [
        register.at(index) for register in REGISTERS.values() for index in range(register.count)
    ]
    assert len(taken) == len(set(taken))
    assert all(address % 8 == 0 and address < 0x1000 for address in taken)
    for register in [*REGISTERS.values(), *EMULATOR_REGISTERS.values()]:
        masks = [field.mask for field in register.fields]
        assert sum(masks) < 1 << 64
        assert sum(masks) == sum(masks[:1]) | sum(masks[1:])
        assert sum(mask.bit_count() for mask in masks) == sum(masks).bit_count()


def test_words_are_packed_and_unpacked_by_field() -> None:
    context = REGISTERS["context"]
    word = context.pack(root_ppn=0x42, mode=8)
    assert word == 0x42 | 8 << 60
    assert context.unpack(word) == {"root_ppn": 0x42, "global_group": 0, "stall": 0, "mode": 8}
    with pytest.raises(ValueError, match=r"context\.mode must be from 0 to 15, not 16"):
        context.pack(mode=16)
    with pytest.raises(
        ValueError, match=r"field of context must be one of root_ppn, .* not 'root'"
    ):
        context.pack(root=1)
    with pytest.raises(ValueError, match="index of context must be from 0 to 255, not 256"):
        context_register(256)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_compiler_takes_the_header(tmp_path: Path) -> None:
    (tmp_path / "secmmu.h").write_text(c_header())
    (tmp_path / "user.c").write_text(USER)
    words = ["cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    run = subprocess.run(
        [*words, "user.c"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_rdl_describes_the_same_registers() -> None:
    """Every register comes back out of the RDL with its address and its fields."""
    text = re.sub(r"//.*", "", system_rdl())
    text = re.sub(r'"[^"]*"', '""', text)
    body = re.fullmatch(r"\s*addrmap secmmu \{(.*)\};\s*", text, re.DOTALL)
    assert body is not None
    found = re.findall(
        r"reg \{(.*?)\n    \} (\w+)(?:\[(\d+)\])? @ (0x[0-9a-f]+)(?: \+= (\d+))?;",
        body[1],
        re.DOTALL,
    )
    assert len(found) == len(REGISTERS)
    for register, (fields, name, count, address, stride) in zip(
        REGISTERS.values(), found, strict=True
    ):
        assert name == register.name.replace(".", "_")
        assert int(address, 16) == register.address
        assert int(count or 1) == register.count
        assert int(stride or 8) == 8
        access = {"ro": "r", "rw": "rw", "wo": "w"}[register.access]
        parts = re.findall(r"field \{ sw = (\w+); .*?\} (\w+)\[(\d+):(\d+)\];", fields)
        expected = [
            (access, field.name, str(field.low + field.bits - 1), str(field.low))
            for field in register.fields
        ]
        assert parts == (expected or [(access, "value", "63", "0")])
    assert text.count("{") == text.count("}")


def test_the_page_of_documentation_is_current() -> None:
    """When this fails: shootdown csr --markdown docs/registers.md."""
    assert DOCS.read_text() == markdown()
