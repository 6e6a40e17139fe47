"""`rmtkd-edge doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import show, show_json


def command(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Run directory whose files are checked, in place of this machine."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, which providers and meters this machine really has, what conflicts, and what to do.

    With RUN: which files of a run are not those that its stages wrote.
    """
    from rmtkd_edge.cli.examine import examine
    from rmtkd_edge.cli.examine_run import examine_run
    from rmtkd_edge.cli.tables import table_of

    checks = examine() if run is None else examine_run(run)
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        rows = [[c.name, c.state, c.found, c.advice] for c in checks]
        show(table_of(["check", "state", "found", "what to do"], rows))
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)
