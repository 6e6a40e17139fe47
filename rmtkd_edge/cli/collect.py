"""`rmtkd-edge collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import ForceOption, JsonOption, RunArgument
from rmtkd_edge.cli.output import say, show, show_json


def command(
    run: RunArgument,
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="results.json of a bundle.")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check what a bundle measured (hashes, plan, processor) and file it in the run."""
    from rmtkd_edge.api.collect import CollectOptions, collect_run
    from rmtkd_edge.cli.tables import comparison_lines, profile_table

    found = collect_run(CollectOptions(run=run, results=results, force=force))
    (record,) = found.records
    if as_json:
        show_json(record)
    else:
        show(profile_table(record))
        say(*comparison_lines(record), f"next: rmtkd-edge report {run}")
    if found.missed is not None:
        raise found.missed
