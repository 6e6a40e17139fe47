"""`rmtkd-edge profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import (
    BatchOption,
    DevicesOption,
    DurationOption,
    ForceOption,
    HostOption,
    IterationsOption,
    JsonOption,
    LengthOption,
    MeterOption,
    QuickOption,
    RunArgument,
    ThreadsOption,
    numbers,
)
from rmtkd_edge.cli.output import progress, say, show, show_json


def command(
    run: RunArgument,
    on: DevicesOption = "local-cpu",
    host: HostOption = None,
    python: Annotated[
        str | None, typer.Option(help="The Python that measures, on the device; it needs onnxruntime and numpy.")
    ] = None,
    quick: QuickOption = False,
    batch_size: BatchOption = None,
    seq_len: LengthOption = None,
    threads: ThreadsOption = None,
    iterations: IterationsOption = None,
    duration: DurationOption = None,
    meter: MeterOption = "auto",
    javascript: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of node_modules, for node and web-wasm.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Try session settings; the best go into a copy of the profile.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --tune: the copy; PROFILE-tuned.toml when left out.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the exported models with onnxruntime, in turn with the uncompressed ones.

    Several devices (--on pi,jetson,local-cpu; each profile names its host) are measured at the same time. Exit code 1,
    with a table, where no file keeps the profile's budgets.
    """
    from rmtkd_edge.api.profile import ProfileOptions, profile_run
    from rmtkd_edge.cli.tables import comparison_lines, profile_tables
    from rmtkd_edge.cli.tuning import tune as tune_settings
    from rmtkd_edge.errors import UserError

    options = ProfileOptions(
        run=run,
        on=tuple(name.strip() for name in on.split(",") if name.strip()),
        host=host,
        python=python,
        quick=quick,
        batch_sizes=numbers("--batch-size", batch_size),
        lengths=numbers("--seq-len", seq_len),
        threads=threads,
        min_runs=iterations,
        min_duration_s=duration,
        meter=meter,
        javascript=javascript,
        force=force,
    )
    if tune:
        tune_settings(options, out, as_json)
        return
    if out is not None:
        raise UserError("--out is the file of the tuned copy", "add --tune, or leave --out out")
    with progress(as_json) as reporter:
        found = profile_run(options, reporter)
    if as_json:
        show_json(found.records[0] if len(found.records) == 1 else found.records)
    else:
        for table in profile_tables(found.records):
            show(table)
        for record in found.records:
            say(*comparison_lines(record, name=len(found.records) > 1))
    if found.missed is not None:
        raise found.missed
    if not as_json:
        say(f"next: rmtkd-edge report {run}")
