"""How results and errors reach the terminal: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rmtkd_edge.errors import Finding, RmtkdError

if TYPE_CHECKING:
    from rich.table import Table

    from rmtkd_edge.run.reporter import Reporter

PLAIN_WIDTH = 240  # of tables where there is no terminal


def say(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        print(line)


def complain(text: str) -> None:
    """Print a line to standard error, where that can be written."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def show(table: Table) -> None:
    """Print a table; where there is no terminal, as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(table)


def show_json(value: Any) -> None:
    """Print a result as JSON: a document, a list of documents, or plain values."""
    from rmtkd_edge.run.records.base import Document, to_json

    def plain(item: Any) -> Any:
        return to_json(item) if isinstance(item, Document) else item

    found = [plain(item) for item in value] if isinstance(value, (list, tuple)) else plain(value)
    say(json.dumps(found, indent=1, default=str))


def progress(quiet: bool = False) -> AbstractContextManager[Reporter]:
    """Return the context manager that shows what a stage reports, on standard error; nothing when `quiet`."""
    from rmtkd_edge.cli.progress import ConsoleReporter
    from rmtkd_edge.run.reporter import SilentReporter

    return nullcontext(SilentReporter()) if quiet else ConsoleReporter(Console(stderr=True))


def explain(error: RmtkdError) -> None:
    """Print what is wrong, the rows of a finding, and what to type next, to standard error."""
    complain(f"error: {error.message}")
    if isinstance(error, Finding) and error.table:
        from rmtkd_edge.cli.tables import table_of

        Console(stderr=True).print(table_of(error.table[0], error.table[1:]))
    if error.hint:
        complain(f"try: {error.hint}")
