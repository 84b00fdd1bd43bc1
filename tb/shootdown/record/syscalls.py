"""Parse what valgrind prints with ``--trace-syscalls=yes``.

A call is one line ``SYSCALL[pid,tid](number) sys_name ( args )[sync] --> Success(0x0)``. A call
that may block ends with ``[async] ...`` and its result follows in a line of its own, after lines of
other threads; a fork has its result on the next line; a call that a signal interrupts may have none.
"""

import re
from dataclasses import dataclass

__all__ = ["Call", "CallReader"]

LINE = re.compile(r"SYSCALL\[\d+,(\d+)\]\( *\d+\) (.*)")
RESULT = re.compile(r"--> (?:\[[a-z-]+\] )?(Success|Failure)\(0x([0-9a-f]+)")
NAME = re.compile(r"(?:sys_)?(\w+)(?:\[[^]]*\])? *\((.*)")
NUMBER = re.compile(r"0x[0-9a-f]+|-?\d+")
PATH = re.compile(r"0x[0-9a-f]+\((.*)\)(?=, \d| \))")
CHILD = re.compile(r"created child (\d+)")
ASYNC = "[async]"


@dataclass(frozen=True)
class Call:
    """A system call that succeeded.

    Attributes
    ----------
    name : str
        Name without ``sys_``.
    args : tuple of int
        Arguments as printed; a path argument is left out.
    path : str or None
        The path argument, if one was printed.
    result : int
        What the call returned.
    child : int or None
        Process id of the child that the call made.
    """

    name: str
    args: tuple[int, ...]
    path: str | None
    result: int
    child: int | None


class CallReader:
    """Join the lines of each call of one process."""

    def __init__(self) -> None:
        self._blocked: dict[str, str] = {}
        self._open: str | None = None

    def feed(self, line: str) -> Call | None:
        """Take one text line and return the call that it completes, if any."""
        match = LINE.match(line)
        if match is None:
            text, self._open = self._open, None
            return None if text is None else self._complete(text, line)
        thread, text = match.groups()
        self._open = None
        if text.startswith("..."):
            begun = self._blocked.pop(thread, None)
            return None if begun is None else self._complete(begun, text)
        self._blocked.pop(thread, None)
        if text.rstrip().endswith("..."):
            self._blocked[thread] = text
            return None
        if RESULT.search(text) is None:
            self._open = text
            return None
        return self._complete(text, text)

    @staticmethod
    def _complete(text: str, outcome: str) -> Call | None:
        results = RESULT.findall(outcome)
        head = NAME.match(text)
        if not results or results[-1][0] == "Failure" or head is None:
            return None
        body = head[2].split(" -->")[0]
        child = CHILD.search(body)
        path = PATH.search(body)
        numbers = body if path is None else body[: path.start()] + body[path.end() :]
        return Call(
            name=head[1],
            args=_numbers(head[1], numbers),
            path=None if path is None else path[1],
            result=int(results[-1][1], 16),
            child=None if child is None else int(child[1]),
        )


def _numbers(name: str, text: str) -> tuple[int, ...]:
    # clone prints its flags in hexadecimal without a prefix.
    if name == "clone":
        return ()
    return tuple(int(number, 0) for number in NUMBER.findall(text.split(")")[0]))
