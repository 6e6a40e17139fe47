"""`rmtkd-edge report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import complain, say, show_json
from rmtkd_edge.errors import UserError


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or several run directories.")],
    out: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="Folder; the first run's report/ when left out.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run on the same test rows, drawn by size and quality (repeatable)."),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="The RMT-KD paper's table and figures instead, from all finished runs; RUN may be a folder of runs. "
            "--out is ./paper when left out.",
        ),
    ] = False,
    reference: Annotated[
        Path | None, typer.Option(metavar="RUN", help="With --paper: the run of RMT-KD that is the reference.")
    ] = None,
    equal_time: Annotated[
        bool,
        typer.Option(
            "--equal-time",
            help="With --paper: a budget of time set the steps, so that runs that differ in these alone are one row.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the device benchmark report: report.md, one self-contained report.html, and the figures."""
    if paper:
        _paper(runs, out, against or (), reference, equal_time, as_json)
        return
    if reference is not None:
        raise UserError("--reference goes with --paper", "rmtkd-edge report --paper RUN... --reference RUN")
    if equal_time:
        raise UserError("--equal-time goes with --paper", "rmtkd-edge report --paper RUN... --equal-time")
    from rmtkd_edge.api.report import report

    written = report(*runs, out=out, against=against or ())
    if as_json:
        show_json({"html": written.html, "markdown": written.markdown, "figures": list(written.figures)})
    else:
        say(str(written.html), str(written.markdown))


def _paper(
    runs: Sequence[Path],
    out: Path | None,
    against: Sequence[Path],
    reference: Path | None,
    equal_time: bool,
    as_json: bool,
) -> None:
    if against:
        raise UserError("--against goes with the report of one run, not with --paper", "name all runs as RUN...")
    from rmtkd_edge.api.report import paper

    written = paper(*runs, out=out or "paper", reference=reference, equal_time=equal_time)
    if as_json:
        files = {"html": written.html, "markdown": written.markdown, "json": written.record}
        skipped = [{"run": one.run, "why": one.why, "hint": one.hint} for one in written.skipped]
        show_json({**files, "figures": list(written.figures), "skipped": skipped})
        return
    for one in written.skipped:
        complain(f"skipped {one.run}: {one.why}")
    say(str(written.html), str(written.markdown), str(written.record))
