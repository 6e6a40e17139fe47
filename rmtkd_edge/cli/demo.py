"""`rmtkd-edge demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import ForceOption
from rmtkd_edge.cli.output import progress, say, show


class DemoTask(StrEnum):
    """What the demo is about."""

    text = "text"
    images = "images"


def command(
    task: Annotated[DemoTask, typer.Option(help="Sentences and an encoder, or digits and a ResNet.")] = DemoTask.text,
    hub: Annotated[bool, typer.Option("--hub", help="SST-2 from the hub instead of the packaged sentences.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory; runs/demo or runs/demo-images when left out.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A copy of SST-2 (folder or file); with --hub.")] = None,
    force: ForceOption = False,
) -> None:
    """All four stages, offline, on real sentences or images that Python packages ship (minutes on two cores).

    What an earlier call finished is kept; --force begins again.
    """
    from rmtkd_edge.api.demo import DemoOptions, run_demo
    from rmtkd_edge.cli.tables import comparison_lines, summary_table

    with progress() as reporter:
        done = run_demo(DemoOptions(images=task is DemoTask.images, hub=hub, out=out, data=data, force=force), reporter)
    show(summary_table(done.compression, done.baseline, done.exported, done.measured))
    say(*comparison_lines(done.measured), f"report: {done.report.html}")
