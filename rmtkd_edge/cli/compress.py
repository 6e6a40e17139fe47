"""`rmtkd-edge compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import DataOption, ForceOption, JsonOption, OutOption
from rmtkd_edge.cli.output import progress, say, show_json


def command(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of one that ships (rmtkd-edge recipes).")],
    out: OutOption,
    data: DataOption = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe key: --set distil.alpha=0.7 (repeatable).")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Compression method: rmt-kd, plain-kd, or an installed one.")
    ] = None,
    one_shot: Annotated[bool, typer.Option("--one-shot", help="Closed form only: nothing is trained.")] = False,
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
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train, analyse spectra, project, self-distil: the RMT-KD loop.

    A run that was stopped is continued by the same command. A finished run, or one of another recipe, needs --force.
    """
    from rmtkd_edge.api.compress import CompressOptions, compress_run, is_main_process
    from rmtkd_edge.cli.tables import score_text

    options = CompressOptions(
        recipe=recipe,
        out=Path(out),
        overrides=tuple(overrides or ()),
        data=data,
        one_shot=one_shot,
        on=on,
        budget=budget,
        method=method,
        seed=seed,
        force=force,
    )
    with progress(as_json) as reporter:
        result = compress_run(options, reporter)
    if not is_main_process():  # of a distributed run, one process says it
        return
    if as_json:
        show_json(result)
        return
    say(
        f"{out}: {result.teacher.parameters:,} -> {result.student.parameters:,} parameters "
        f"({result.reduction:.1%} fewer), {score_text(result.teacher, result.student)}",
        f"next: rmtkd-edge export {out}",
    )
