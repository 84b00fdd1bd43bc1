"""Reads litmus scripts; the language stands in docs/litmus.md.

Errors name the file, the line, what is wrong there and what would be allowed.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from hostmm.errors import HostError
from hostmm.machine.costs import COSTS
from hostmm.policies import PATHS, POLICIES, QUIET_PATHS
from hostmm.scenarios.litmus.script import (
    DENIED,
    FAULT,
    Address,
    Condition,
    PageSpec,
    Row,
    Script,
    Stall,
    Step,
    Term,
)
from hostmm.scenarios.litmus.steps import VERBS, Verb
from hostmm.subscribers.kinds import SUBSCRIBERS
from secmmu.config import EmulatorConfig

__all__ = ["LitmusError", "parse", "read"]

_KEYS = (
    "title",
    "source",
    "mm",
    "page",
    "device",
    "memory",
    "timeout",
    "patience",
    "forbidden",
    "shows",
)
_KINDS = ("anon", "tmpfs", "file", "pfn", "hole", "nonlinear", "hugetlb", "kernel")
_HUGE_PAGES = 512
_PATIENCE_NS, _MOST_PATIENCE_US = 60_000, 10_000
_NAME = r"[A-Za-z]\w*"
_COUNT = r"[0-9]{1,9}"
_STALL_PATHS = (*PATHS, *QUIET_PATHS, "pmd_free_pte_page", "gru_user_flush_tlb")
"""Paths that a thread may stall in: those that a policy decides about, and others."""
_ADDRESS = re.compile(
    rf"(?:(?P<mm>{_NAME})\.)?(?P<page>{_NAME})(?:\+(?P<offset>{_COUNT}))?(?:\[(?P<word>{_COUNT})\])?$"
)
_STEP = re.compile(
    r"(?:(?P<register>\w+)\s*=\s*)?(?P<verb>[a-z]+)(?P<order>\.rel|\.acq)?\b(?P<rest>.*)$"
)
_STALL = re.compile(
    r"stalls (?:(?P<unlock>after unlock)|before (?:(?P<nth>[1-9]\d?)(?:st|nd|rd|th) )?(?P<step>\w+))"
    r" of (?P<path>\w+)$"
)
_INVARIANT = re.compile(r"I([1-9]|1\d|2[0-6])$")
_LAST_WORD = 511
_MOST_PAGES = 1024
_MOST_DEVICES = EmulatorConfig().engines


class LitmusError(HostError):
    """A script cannot be read, or says something that is not allowed."""


def read(path: Path) -> Script:
    """Read a script; its name is that of the file.

    Raises
    ------
    LitmusError
        It cannot be read or is not one.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise LitmusError(f"cannot read {path}: {reason}") from None
    return parse(text, name=path.stem, where=str(path))


def parse(text: str, *, name: str, where: str) -> Script:
    """Parse the text of a script; ``where`` names it in errors."""
    return _Parser(text, where).script(name)


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._line = 0
        self._single: dict[str, str] = {}
        self._line_of: dict[str, int] = {}
        self._mms: dict[str, int] = {}
        self._pages: dict[str, PageSpec] = {}
        self._devices: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._threads: tuple[str, ...] = ()
        self._rows: list[Row] = []
        self._free: bool | None = None
        self._forked: set[str] = set()
        self._stalled: dict[str, bool] = {}

    def script(self, name: str) -> Script:
        for number, whole in enumerate(self._text.splitlines(), 1):
            self._line, line = number, whole.split("#", 1)[0].strip()
            if line.startswith("|"):
                self._table(line)
            elif line:
                self._header(line)
        self._check_whole()
        script = Script(
            name=name,
            title=self._single["title"],
            source=self._single.get("source", ""),
            mms=self._mms,
            pages=self._pages,
            threads=self._threads,
            devices=self._devices,
            kinds=self._kinds,
            rows=tuple(self._rows),
            forbidden=self._condition(self._said("forbidden") or ""),
            shows=self._shows(self._said("shows") or ""),
            memory_cycles=self._cycles("memory", 1000),
            timeout_cycles=self._cycles("timeout", 1_000_000),
            patience_ns=self._patience(),
            text=self._text,
        )
        self._check_registers(script)
        return script

    def _said(self, key: str) -> str | None:
        """Return what a line of the header says; errors name that line from now on."""
        self._line = self._line_of.get(key, 0)
        return self._single.get(key)

    def _check_whole(self) -> None:
        self._line = 0
        for key in ("title", "forbidden"):
            if not self._single.get(key):
                self._fail(f"there is no {key}: line", "every script has one")
        if not self._mms:
            self._fail("there is no mm NAME: line", "every script has one, as in: mm P: 2 cpus")
        if not self._rows:
            self._fail("the table has no rows", "threads by columns, steps by rows")
        for device in self._devices:
            if device not in self._threads:
                self._fail(f"device {device} has no column", f"columns: {', '.join(self._threads)}")
        for thread, stalled in self._stalled.items():
            if stalled:
                self._fail(f"{thread} stalls and never goes on", "a later cell says: go on")

    def _check_registers(self, script: Script) -> None:
        self._said("forbidden")
        known = script.registers
        for terms in script.forbidden.alternatives:
            for term in terms:
                if term.register is not None and term.register not in known:
                    self._fail(
                        f"no step sets {term.register!r}",
                        f"registers: {', '.join(known) or 'none'}",
                    )

    def _fail(self, what: str, allowed: str) -> NoReturn:
        place = f"{self._where}:{self._line}" if self._line else self._where
        raise LitmusError(f"{place}: {what}; {allowed}")

    # --- header ------------------------------------------------------------------------------------------

    def _header(self, line: str) -> None:
        key, colon, value = (part.strip() for part in line.partition(":"))
        word, _, name = key.partition(" ")
        if not colon or word not in _KEYS:
            self._fail(
                f"{line!r} is no line of a script", f"lines begin with {', '.join(_KEYS)} or |"
            )
        if word == "page":
            self._page(name, value)
        elif word == "mm":
            self._mm(name, value)
        elif word == "device":
            self._device(name, value)
        elif name or word in self._single:
            self._fail(f"{word}: stands here twice or with a name", f"one line {word}: TEXT")
        else:
            self._single[word], self._line_of[word] = value, self._line

    def _new_name(self, what: str, name: str, taken: object) -> None:
        if not re.fullmatch(_NAME, name):
            self._fail(f"{name!r} is no name of a {what}", "a letter, then letters and digits")
        if taken:
            self._fail(f"there is a {what} {name!r} already", "each has a name of its own")

    def _mm(self, name: str, value: str) -> None:
        self._new_name("mm", name, name in self._mms)
        found = re.fullmatch(rf"({_COUNT}) cpus?", value)
        if not found or not 1 <= int(found[1]) <= 16:
            self._fail(f"{value!r} says nothing about an mm", "1 to 16 cpus, as in: mm P: 2 cpus")
        self._mms[name] = int(found[1])

    def _device(self, name: str, value: str) -> None:
        self._new_name("device", name, name in self._devices)
        if len(self._devices) == _MOST_DEVICES:
            self._fail(f"there is no engine for device {name}", f"{_MOST_DEVICES} devices at most")
        mm, _, kind = value.partition(" ")
        if mm not in self._mms:
            self._fail(f"no mm {mm!r}", f"mms so far: {', '.join(self._mms) or 'none'}")
        if kind and kind not in SUBSCRIBERS:
            self._fail(f"no kind of device {kind!r}", f"kinds: {', '.join(SUBSCRIBERS)}")
        self._devices[name] = mm
        if kind:
            self._kinds[name] = kind

    def _page(self, name: str, value: str) -> None:
        self._new_name("page", name, name in self._pages)
        words = value.split()
        kind = next((word for word in words if word in _KINDS), None)
        rest = [word for word in words if word != kind]
        allowed = f"a kind ({', '.join(_KINDS)}), then shared or private, N pages, = VALUE"
        if kind is None:
            self._fail(f"{value!r} names no kind of page", allowed)
        spec = PageSpec(name, kind, kind == "nonlinear", 1, 0)
        text = " ".join(rest)
        if found := re.search(r"\b(shared|private)\b", text):
            spec = replace(spec, shared=found[1] == "shared")
        if found := re.search(rf"\b({_COUNT}) pages?\b", text):
            spec = replace(spec, pages=int(found[1]))
        if found := re.search(r"= (\w+)$", text):
            spec = replace(spec, value=self._number(found[1]))
        left = re.sub(rf"\b(shared|private|{_COUNT} pages?)\b|= \w+$", "", text).strip()
        if left or not 1 <= spec.pages <= _MOST_PAGES:
            self._fail(f"{left or spec.pages!r} cannot be said of a page", allowed)
        if kind in ("anon", "pfn", "hole", "kernel") and spec.shared:
            self._fail(f"a page of kind {kind} is private", allowed)
        if kind in ("pfn", "hole", "kernel") and spec.pages != 1:
            self._fail(f"a page of kind {kind} stands alone", allowed)
        if kind == "hugetlb" and spec.pages % _HUGE_PAGES:
            self._fail("a run of kind hugetlb is a multiple of 2 MiB", "512 pages")
        if spec.value and kind != "pfn":
            self._fail(f"a page of kind {kind} has no value at the start", "a store gives it one")
        self._pages[name] = spec

    def _cycles(self, key: str, most: int) -> int | None:
        text = self._said(key)
        if text is None:
            return None
        found = re.fullmatch(rf"({_COUNT}) cycles", text)
        if not found or not 1 <= int(found[1]) <= most:
            self._fail(f"{key}: {text!r} is no latency", f"{key}: N cycles, N from 1 to {most}")
        return int(found[1])

    def _patience(self) -> int:
        text = self._said("patience")
        if text is None:
            return _PATIENCE_NS
        found = re.fullmatch(rf"({_COUNT}) us", text)
        if not found or not 1 <= int(found[1]) <= _MOST_PATIENCE_US:
            self._fail(
                f"patience: {text!r} is no time", f"patience: N us, N from 1 to {_MOST_PATIENCE_US}"
            )
        return int(found[1]) * 1000

    # --- the table ---------------------------------------------------------------------------------------

    def _table(self, line: str) -> None:
        if not line.endswith("|"):
            self._fail("a row of the table ends without |", "| cell | cell |")
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if not self._threads:
            for cell in cells:
                self._new_name("thread", cell, cells.count(cell) > 1)
            self._threads = tuple(cells)
            return
        if len(cells) != len(self._threads):
            self._fail(
                f"{len(cells)} cells in a table of {len(self._threads)} columns",
                f"columns: {', '.join(self._threads)}",
            )
        if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            self._free = False
        elif all(re.fullmatch(r"=+", cell) for cell in cells):
            self._free = True
        elif self._free is None:
            self._fail("steps before the rule", "|---|---| below the names of the threads")
        else:
            steps = {
                thread: self._step(thread, cell)
                for thread, cell in zip(self._threads, cells, strict=True)
                if cell
            }
            self._rows.append(Row(steps, self._free))

    def _step(self, thread: str, cell: str) -> Step:
        text, _, suffix = (part.strip() for part in cell.partition(";"))
        if text == "go on":
            if not self._stalled.get(thread):
                self._fail(f"{thread} goes on, but does not stall", "STEP; stalls ... of PATH")
            self._stalled[thread] = False
            return Step("go on", cell)
        if self._stalled.get(thread) and not self._free:
            self._fail(f"{thread} stalls, and has a step", "go on comes first")
        found = _STEP.match(text)
        verb = VERBS.get(found["verb"]) if found else None
        device = thread in self._devices
        allowed = "steps: " + ", ".join(v.syntax for v in VERBS.values() if v.device or not device)
        if not found or verb is None or (device and not verb.device):
            who = "a device" if device else "a CPU"
            self._fail(f"{text!r} is no step of {who}", allowed)
        step = self._operands(verb, found["verb"], found["rest"].strip(), cell)
        if found["register"] is not None:
            if not verb.result:
                self._fail(f"{found['verb']} has no result", allowed)
            step = replace(step, register=found["register"])
        return replace(step, stall=self._stall(thread, suffix)) if suffix else step

    def _stall(self, thread: str, text: str) -> Stall:
        found = _STALL.match(text)
        if not found:
            self._fail(
                f"{text!r} says no place",
                "stalls after unlock of PATH, or stalls before [2nd] STEP of PATH",
            )
        if self._free:
            self._fail("a step below the === rule stalls", "only rows above it wait for each other")
        if (thread in self._devices) is not (found["path"] == FAULT):
            self._fail(
                f"{thread} does not come there",
                f"a CPU stalls in an mm path, a device in the handling of its {FAULT}",
            )
        if found["path"] not in (FAULT, *_STALL_PATHS):
            self._fail(f"no mm path {found['path']!r}", f"paths: {', '.join(_STALL_PATHS)}")
        step = "unlocked" if found["unlock"] else found["step"]
        if step not in COSTS:
            self._fail(f"no step {step!r}", f"steps: {', '.join(COSTS)}")
        self._stalled[thread] = True
        return Stall(found["path"], step, int(found["nth"] or 1))

    def _operands(self, verb: Verb, name: str, rest: str, text: str) -> Step:
        found = re.fullmatch(verb.operands, rest)
        if not found:
            self._fail(f"{text!r} does not fit", f"it reads: {verb.syntax}")
        parts = found.groupdict()
        step = Step(name, text)
        if parts.get("address"):
            step = replace(step, address=self._address(parts["address"], verb.kind))
        if parts.get("target"):
            step = replace(step, target=self._address(parts["target"]))
        if parts.get("value"):
            step = replace(step, value=self._number(parts["value"]))
        if parts.get("name"):
            step = replace(step, name=parts["name"])
        if name == "fork":
            self._new_name("mm", parts["name"], parts["name"] in {*self._mms, *self._forked})
            self._forked.add(parts["name"])
        elif name in ("unbind", "reset", "unplug", "flush") and parts["name"] not in self._devices:
            self._fail(f"no device {parts['name']!r}", f"devices: {', '.join(self._devices)}")
        elif name in ("exit", "softdirty") and parts["name"] not in {*self._mms, *self._forked}:
            self._fail(f"no mm {parts['name']!r}", f"mms: {', '.join((*self._mms, *self._forked))}")
        return step

    def _address(self, text: str, kind: str | None = None) -> Address:
        found = _ADDRESS.match(text)
        if not found or found["page"] not in self._pages:
            self._fail(
                f"{text!r} is no address",
                f"pages: {', '.join(self._pages)}; as in p, p[3], p+1, C.p",
            )
        if kind not in (None, self._pages[found["page"]].kind):
            fit = [page.name for page in self._pages.values() if page.kind == kind]
            self._fail(
                f"{text} is no page of kind {kind}", f"those are: {', '.join(fit) or 'none'}"
            )
        known = {*self._mms, *self._forked}
        if found["mm"] is not None and found["mm"] not in known:
            self._fail(f"no mm {found['mm']!r}", f"mms so far: {', '.join(sorted(known))}")
        offset = None if found["offset"] is None else int(found["offset"])
        pages = self._pages[found["page"]].pages
        if (offset or 0) >= pages or int(found["word"] or 0) > _LAST_WORD:
            self._fail(f"{text!r} lies outside", f"{found['page']} has {pages} pages of 512 words")
        return Address(found["mm"], found["page"], offset, int(found["word"] or 0))

    def _number(self, text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            self._fail(f"{text!r} is no number", "a decimal or 0x... number")
        if not 0 <= value < 1 << 63:
            self._fail(f"{text} does not fit a word", "0 to 2**63 - 1")
        return value

    # --- conditions --------------------------------------------------------------------------------------

    def _condition(self, text: str) -> Condition:
        return Condition(
            text,
            tuple(
                tuple(self._term(term.strip()) for term in re.split(r"\band\b", part))
                for part in re.split(r"\bor\b", text)
            ),
        )

    def _term(self, text: str) -> Term:
        if text == "any invariant" or _INVARIANT.match(text):
            return Term(None, True, 0, text)
        found = re.fullmatch(r"(\w+) *(==|!=) *(\w+)", text)
        if not found:
            self._fail(
                f"forbidden: {text!r} is no condition",
                "REGISTER == VALUE, REGISTER != VALUE, I1 to I26, any invariant; joined by and / or",
            )
        value = DENIED if found[3] == "denied" else self._number(found[3])
        return Term(found[1], found[2] == "==", value)

    def _shows(self, text: str) -> tuple[tuple[str, str], ...]:
        pairs = []
        for part in re.split(r"[,\s]+", text.strip()) if text.strip() else ():
            policy, slash, subscriber = part.partition("/")
            if not (policy and slash and subscriber):
                self._fail(f"shows: {part!r} is no pair", "POLICY/SUBSCRIBER, * for any")
            for what, name, known in (
                ("policy", policy, POLICIES),
                ("subscriber", subscriber, SUBSCRIBERS),
            ):
                if name not in ("*", *known):
                    self._fail(f"shows: no {what} {name!r}", f"*, {', '.join(known)}")
            pairs.append((policy, subscriber))
        return tuple(pairs)
