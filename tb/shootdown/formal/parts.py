"""Blocks of the RTL built of other parts than their own: how a proof puts a fault, or a simpler part, in its place."""

import sys
from typing import Any
from unittest.mock import patch

__all__ = ["with_parts"]


def with_parts(kind: type[Any], **parts: Any) -> type[Any]:
    """Return the component class ``kind`` whose module's names ``parts`` mean these while it is elaborated."""

    def elaborate(self: Any, platform: object) -> Any:
        with patch.multiple(sys.modules[kind.__module__], **parts):
            return kind.elaborate(self, platform)

    return type(f"_{kind.__name__}", (kind,), {"elaborate": elaborate})
