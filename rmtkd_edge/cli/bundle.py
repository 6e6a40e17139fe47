"""`rmtkd-edge bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import (
    BatchOption,
    DurationOption,
    ForceOption,
    IterationsOption,
    JsonOption,
    LengthOption,
    MeterOption,
    QuickOption,
    RunArgument,
    ThreadsOption,
    numbers,
)
from rmtkd_edge.cli.output import say, show_json


def command(
    run: RunArgument,
    on: Annotated[str, typer.Option("--on", "--device", help="Hardware profile of the device (rmtkd-edge profiles).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; RUN-PROFILE when left out.")] = None,
    quick: QuickOption = False,
    batch_size: BatchOption = None,
    seq_len: LengthOption = None,
    threads: ThreadsOption = None,
    iterations: IterationsOption = None,
    duration: DurationOption = None,
    meter: MeterOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a folder (and .tar.gz) that measures the exported models on another device, offline.

    There, `python3 runner.py` needs onnxruntime and numpy alone; `collect` brings its results.json back.
    """
    from rmtkd_edge.api.bundle import BundleOptions, bundle_run

    options = BundleOptions(
        run=run,
        on=on,
        out=out,
        quick=quick,
        batch_sizes=numbers("--batch-size", batch_size),
        lengths=numbers("--seq-len", seq_len),
        threads=threads,
        min_runs=iterations,
        min_duration_s=duration,
        meter=meter,
        force=force,
    )
    found = bundle_run(options)
    if as_json:
        show_json(found.to_dict())
        return
    say(
        f"{found.folder}, {found.archive} ({found.size_bytes / 1e6:.1f} MB): {', '.join(found.models)}",
        "on the device: python3 runner.py",
        f"then here: rmtkd-edge collect {run} results.json",
    )
