"""`rmtkd-edge compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import DataOption, ForceOption, JsonOption, OutOption, shares
from rmtkd_edge.cli.output import progress, say, show_json
from rmtkd_edge.errors import UserError


def command(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of one that ships (rmtkd-edge recipes).")],
    out: OutOption = None,
    data: DataOption = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe key: --set distil.alpha=0.7 (repeatable).")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Compression method: rmt-kd, plain-kd, pca, pkd, ... or an installed one."),
    ] = None,
    one_shot: Annotated[bool, typer.Option("--one-shot", help="Closed form only: nothing is trained.")] = False,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Shares of the parameters to remove, with commas, increasing: one student at each, in one run.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="PROFILE", help="Hardware profile (name or .toml) that widths are rounded up for."
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Stop when the limits of this hardware profile are met.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (recipe key `seed`).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read recipe and data, say what was read, and write nothing.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train, analyse spectra, project, self-distil: the RMT-KD loop.

    A run that was stopped is continued by the same command. A finished run, or one of another recipe, needs --force.
    """
    from rmtkd_edge.api.compress import CompressOptions, compress_run, forecast, is_main_process
    from rmtkd_edge.cli.dry_run import show_dry_run
    from rmtkd_edge.cli.tables import score_text

    if out is None and not dry_run:
        raise UserError("compress needs a run directory to write", "add --out runs/NAME, or --dry-run to only read")
    options = CompressOptions(
        recipe=recipe,
        out=out or Path(),
        overrides=tuple(overrides or ()),
        data=data,
        one_shot=one_shot,
        on=on,
        budget=budget,
        method=method,
        seed=seed,
        targets=shares("--targets", targets),
        force=force,
    )
    if dry_run:
        with progress(as_json) as reporter:
            found = forecast(options, reporter)
        show_dry_run(found, as_json)
        return
    with progress(as_json) as reporter:
        result = compress_run(options, reporter)
    if not is_main_process():  # of a distributed run, one process says it
        return
    if as_json:
        show_json(result)
        return
    for member in result.family:
        say(
            f"{out}: {result.teacher.parameters:,} -> {member.student.parameters:,} parameters "
            f"({member.reduction:.1%} fewer), {score_text(result.teacher, member.student)}"
        )
    say(f"next: rmtkd-edge export {out}")
