"""`rmtkd-edge compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import say, show, show_json


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="profile/NAME.json of a run, or a results.json.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same models and workloads.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two measurements: another day, another device, another setting, or another model.

    Ratios are B / A, with an interval; whatever else differs between the two is named.
    """
    from rmtkd_edge.api.compare import compare
    from rmtkd_edge.cli.tables import session_lines, session_table

    found = compare(a, b).comparisons
    if as_json:
        show_json([item.to_dict() for item in found])
        return
    show(session_table(found))
    say(*session_lines(found))
