"""The register map in other languages: a C header, SystemRDL 2.0, a page of documentation."""

from collections.abc import Iterable, Iterator

from secmmu.csr import EMULATOR_REGISTERS, REGISTERS, VERSION, WORD_BYTES, Field, Register
from secmmu.layouts import WORD_BITS

__all__ = ["c_header", "markdown", "system_rdl"]

_C_HEAD = """\
/* Register map of secmmu, version {version}. Made by "shootdown csr --header"; do not edit. */
#ifndef SECMMU_REGISTERS_H
#define SECMMU_REGISTERS_H

#include <stdint.h>

/* Registers have 64 bits and are reached with 64-bit accesses. X is the name of a field. */
#define SECMMU_GET(word, X) (((uint64_t)(word) & X##_MASK) >> X##_SHIFT)
#define SECMMU_PUT(value, X) (((uint64_t)(value) << X##_SHIFT) & X##_MASK)

static inline uint64_t secmmu_read(const volatile void *base, uint32_t offset)
{{
    return *(const volatile uint64_t *)((const volatile char *)base + offset);
}}

static inline void secmmu_write(volatile void *base, uint32_t offset, uint64_t word)
{{
    *(volatile uint64_t *)((volatile char *)base + offset) = word;
}}
"""

_RDL_ACCESS = {"ro": ("r", "w"), "rw": ("rw", "r"), "wo": ("w", "r")}


def _whole(register: Register) -> tuple[Field, ...]:
    """Return the fields of ``register``, the whole word where it has none."""
    return register.fields or (Field("value", 0, WORD_BITS, register.doc),)


def _identifier(name: str) -> str:
    return name.replace(".", "_")


def c_header() -> str:
    """Return the C header: offsets, shifts, masks, and inline functions that read and write."""
    lines = [_C_HEAD.format(version=VERSION)]
    for register in REGISTERS.values():
        lines += [*_c_register(register), ""]
    return "\n".join([*lines, "#endif", ""])


def _c_register(register: Register) -> Iterator[str]:
    name = f"SECMMU_{_identifier(register.name).upper()}"
    yield f"/* {register.doc} ({register.access}) */"
    if register.count == 1:
        yield f"#define {name} 0x{register.address:03x}u"
    else:
        yield f"#define {name}(i) (0x{register.address:03x}u + {WORD_BYTES}u * (uint32_t)(i))"
        yield f"#define {name}_COUNT {register.count}"
    for field in register.fields:
        yield f"#define {name}_{field.name.upper()}_SHIFT {field.low} /* {field.doc} */"
        yield f"#define {name}_{field.name.upper()}_MASK UINT64_C(0x{field.mask:016x})"


def system_rdl() -> str:
    """Return the map as SystemRDL 2.0 (Accellera)."""
    lines = [
        f"// Register map of secmmu, version {VERSION}. Made by `shootdown csr --rdl`; do not edit.",
        "addrmap secmmu {",
        '    name = "secmmu";',
        f"    default regwidth = {WORD_BITS};",
        f"    default accesswidth = {WORD_BITS};",
    ]
    for register in REGISTERS.values():
        lines += _rdl_register(register)
    return "\n".join([*lines, "};", ""])


def _rdl_register(register: Register) -> Iterator[str]:
    software, hardware = _RDL_ACCESS[register.access]
    yield "    reg {"
    yield f'        name = "{register.name}";'
    yield f'        desc = "{register.doc}";'
    for field in _whole(register):
        high = field.low + field.bits - 1
        yield (
            f'        field {{ sw = {software}; hw = {hardware}; desc = "{field.doc}"; }}'
            f" {field.name}[{high}:{field.low}];"
        )
    several = register.count > 1
    array = f"[{register.count}]" if several else ""
    stride = f" += {WORD_BYTES}" if several else ""
    yield f"    }} {_identifier(register.name)}{array} @ 0x{register.address:03x}{stride};"


def markdown() -> str:
    """Return the page of documentation."""
    lines = [
        "# Registers",
        "",
        "Made from `hdl/secmmu/csr.py` by `shootdown csr --markdown docs/registers.md`; do not edit.",
        "Registers have 64 bits. The MMU's are reached over AXI4-Lite, 12 address bits; an address without a register,",
        "or a context row that the build does not have, answers SLVERR.",
        "",
        "## The MMU",
        "",
        *_markdown_table(REGISTERS.values()),
        "",
        "## The emulator around it",
        "",
        "Reached by the link messages `CSR_WRITE` and `CSR_READ` with `flags` 1.",
        "",
        *_markdown_table(EMULATOR_REGISTERS.values()),
    ]
    return "\n".join([*lines, ""])


def _markdown_table(registers: Iterable[Register]) -> Iterator[str]:
    yield "| offset | name | access | bits | what it holds |"
    yield "| --- | --- | --- | --- | --- |"
    for register in registers:
        offset = f"`0x{register.address:03x}`"
        if register.count > 1:
            offset += f" + {WORD_BYTES} i, i < {register.count}"
        yield f"| {offset} | `{register.name}` | {register.access} | 63:0 | {register.doc} |"
        for field in register.fields:
            bits = f"{field.low + field.bits - 1}:{field.low}" if field.bits > 1 else f"{field.low}"
            yield f"| | `.{field.name}` | | {bits} | {field.doc} |"
