"""Arguments and options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MOST = 1_048_576  # inputs of a call, or tokens of a sequence
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, as written by compress.")]
OutOption = Annotated[Path | None, typer.Option("--out", "--output", "-o", help="Run directory to write.")]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder (train.*, validation.*, test.*) or file; overrides the hub.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

DevicesOption = Annotated[
    str, typer.Option("--on", "--device", help="Hardware profiles, with commas (rmtkd-edge profiles).")
]
HostOption = Annotated[
    str | None, typer.Option(help="The device's name for ssh (keys and ~/.ssh/config hold); else this machine.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="At least 50 runs and 10 s instead of 200 and 60.")]
BatchOption = Annotated[str | None, typer.Option(help="Batch sizes, with commas; the profile's when left out.")]
LengthOption = Annotated[str | None, typer.Option(help="Tokens a sequence, with commas; the profile's when left out.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of onnxruntime; the profile's when left out.")]
IterationsOption = Annotated[
    int | None, typer.Option("--iterations", "--min-runs", help="Runs a model and workload, at least.")
]
DurationOption = Annotated[float | None, typer.Option(help="Seconds a model and workload, at least.")]
MeterOption = Annotated[str, typer.Option(help="Energy meter: auto, or one by name (rmtkd-edge doctor).")]


def shares(option: str, text: str | None) -> tuple[float, ...]:
    """Return the numbers of a comma-separated option; raise UserError for anything else. The recipe knows the range."""
    from rmtkd_edge.errors import UserError

    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as err:
        raise UserError(
            f"{option} {text}: must be shares of the parameters, with commas", f"for example {option} 0.5,0.7,0.8"
        ) from err


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Return the positive whole numbers of a comma-separated option; raise UserError for anything else."""
    from rmtkd_edge.errors import UserError

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 7 and 0 < int(part) <= MOST for part in parts):
        raise UserError(f"{option} {text}: must be whole numbers from 1 to {MOST}", f"for example {option} 1,8")
    return tuple(int(part) for part in parts)
