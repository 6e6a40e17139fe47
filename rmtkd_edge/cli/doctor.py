"""`rmtkd-edge doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import show, show_json


def command(as_json: JsonOption = False) -> None:
    """Say what is installed, which providers and meters this machine really has, what conflicts, and what to do."""
    from rmtkd_edge.cli.examine import examine
    from rmtkd_edge.cli.tables import table_of

    checks = examine()
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        rows = [[c.name, c.state, c.found, c.advice] for c in checks]
        show(table_of(["check", "state", "found", "what to do"], rows))
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)
