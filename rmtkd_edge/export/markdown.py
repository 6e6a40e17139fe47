"""Markdown that shows texts from outside as what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plain(text: object) -> str:
    """Return a text as Markdown shows it literally, on one line."""
    line = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_{}\[\]|~#!()$])", r"\\\1", line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; cells are shown literally."""
    lines = [header, ["---"] * len(header), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fence(code: str, language: str) -> str:
    """Return a fenced listing; the fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{code.rstrip()}\n{ticks}"
