"""`rmtkd-edge report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import say, show_json


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or several run directories.")],
    out: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="Folder; the first run's report/ when left out.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run on the same test rows, drawn by size and quality (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the device benchmark report: report.md, one self-contained report.html, and the figures."""
    from rmtkd_edge.api.report import report

    written = report(*runs, out=out, against=against or ())
    if as_json:
        show_json({"html": written.html, "markdown": written.markdown, "figures": list(written.figures)})
    else:
        say(str(written.html), str(written.markdown))
