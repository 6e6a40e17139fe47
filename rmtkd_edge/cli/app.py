"""The command line: argv in, text and an exit code out; with progress.py, the only file that writes to the terminal.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 a check was carried out and
failed, or training could not go on; 2 the user's error; 3 a fault of this program; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Shrink encoders and ResNets by RMT-KD (random matrices, self-distillation), to ONNX; measure on devices.",
    epilog="Start here: [bold]rmtkd-edge demo[/] runs all four stages offline in a few minutes.",
)

INTERRUPTED = 130


class DemoTask(StrEnum):
    """What the demo is about."""

    text = "text"
    images = "images"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, as written by compress.")]
OutOption = Annotated[Path, typer.Option("--out", "--output", "-o", help="Run directory to write.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder (train.*, validation.*) or file; overrides the hub.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

QuickOption = Annotated[bool, typer.Option("--quick", help="At least 50 runs and 10 s in place of 200 and 60.")]
BatchOption = Annotated[str | None, typer.Option(help="Batch sizes, with commas; the profile's when left out.")]
LengthOption = Annotated[str | None, typer.Option(help="Tokens a sequence, with commas; the profile's when left out.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of onnxruntime; the profile's when left out.")]
IterationsOption = Annotated[
    int | None, typer.Option("--iterations", "--min-runs", help="Runs a model and load, at least.")
]
DurationOption = Annotated[float | None, typer.Option(help="Seconds a model and load, at least.")]
MeterOption = Annotated[str, typer.Option(help="Energy meter: auto, or one by name (rmtkd-edge doctor).")]


def say(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        print(line)


def show(table: Any) -> None:
    """Print a rich table; where there is no terminal, as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def show_json(value: Any) -> None:
    """Print a result as JSON."""
    say(json.dumps(value, indent=1, default=str))


def progress(quiet: bool = False) -> Any:
    """Return the context manager that shows what a stage reports, on standard error; nothing under --json."""
    from contextlib import nullcontext

    from rmtkd_edge.cli.progress import ConsoleReporter, SilentReporter

    return nullcontext(SilentReporter()) if quiet else ConsoleReporter(Console(stderr=True))


@app.command()
def compress(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of one that ships (rmtkd-edge recipes).")],
    out: OutOption,
    data: DataOption = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a recipe key: --set distil.alpha=0.7 (repeatable).")
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
    from rmtkd_edge import workflow

    resolved = workflow.resolve_recipe(recipe, overrides or (), one_shot=one_shot, seed=seed, on=on, budget=budget)
    with progress(as_json) as reporter:
        result = workflow.run_compress(resolved, out, data, force, reporter)
    if not workflow.is_main_process():
        return
    if as_json:
        show_json(result)
        return
    teacher, student = result["teacher"], result["student"]
    say(
        f"{out}: {teacher['parameters']:,} -> {student['parameters']:,} parameters ({result['reduction']:.1%} fewer), "
        f"accuracy {teacher['accuracy']:.4f} -> {student['accuracy']:.4f}",
        f"next: rmtkd-edge export {out}",
    )


@app.command()
def export(
    run: RunArgument,
    no_int8: Annotated[bool, typer.Option("--no-int8", help="No int8 files.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half-precision files too, for GPUs.")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset (recipe key export.opset).")] = None,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fold the projections, write ONNX (fp32, int8, on request fp16), and prove that every file computes the same."""
    from rmtkd_edge import workflow
    from rmtkd_edge.cli.tables import variants_table

    with progress(as_json) as reporter:
        result = workflow.run_export(
            run, False if no_int8 else None, opset, data, force, reporter, True if fp16 else None
        )
    if as_json:
        show_json(result)
        return
    show(variants_table(result))
    say(f"next: rmtkd-edge profile {run} --on local-cpu")


@app.command()
def profile(
    run: RunArgument,
    on: Annotated[
        str, typer.Option("--on", "--device", help="Hardware profiles, with commas (rmtkd-edge profiles).")
    ] = "local-cpu",
    host: Annotated[
        str | None, typer.Option(help="The device's name for ssh (keys and ~/.ssh/config hold); else this machine.")
    ] = None,
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
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the exported models with onnxruntime, in turn with the uncompressed ones.

    Several devices (--on pi,jetson,local-cpu; each profile names its host) are measured at the same time. Exit code 1,
    with a table, where no file keeps the profile's budgets.
    """
    from rmtkd_edge import devices
    from rmtkd_edge.cli.tables import comparison_lines, profile_tables

    names = [name.strip() for name in on.split(",") if name.strip()]
    batches, lengths = numbers("--batch-size", batch_size), numbers("--seq-len", seq_len)
    with progress(as_json) as reporter:
        results = devices.run_profiles(
            run,
            names,
            reporter,
            force=force,
            host=host,
            python=python,
            threads=threads,
            batches=batches,
            lengths=lengths,
            quick=quick,
            min_runs=iterations,
            min_duration_s=duration,
            meter=meter,
            javascript=javascript,
        )
    if as_json:
        show_json(results[0] if len(results) == 1 else results)
        devices.refuse_missed_budgets(run, results)
        return
    for table in profile_tables(results):
        show(table)
    for result in results:
        say(*comparison_lines(result, name=len(results) > 1))
    devices.refuse_missed_budgets(run, results)
    say(f"next: rmtkd-edge report {run}")


def numbers(option: str, text: str | None) -> list[int]:
    """Return the positive whole numbers of a comma-separated option; raise UserError for anything else."""
    from rmtkd_edge.errors import UserError

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option} {text}: positive whole numbers are wanted", f"for example {option} 1,8")
    return [int(part) for part in parts]


@app.command()
def bundle(
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
    from rmtkd_edge import devices

    found = devices.run_bundle(
        run, on, out, threads=threads, batches=numbers("--batch-size", batch_size), force=force, quick=quick,
        lengths=numbers("--seq-len", seq_len), min_runs=iterations, min_duration_s=duration, meter=meter,
    )  # fmt: skip
    if as_json:
        show_json(found)
        return
    say(
        f"{found['folder']}, {found['archive']} ({found['size_bytes'] / 1e6:.1f} MB): {', '.join(found['models'])}",
        "on the device: python3 runner.py",
        f"then here: rmtkd-edge collect {run} results.json",
    )


@app.command()
def collect(
    run: RunArgument,
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="results.json of a bundle.")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check what a bundle measured (hashes, plan, processor) and file it in the run."""
    from rmtkd_edge import devices
    from rmtkd_edge.cli.tables import comparison_lines, profile_table

    found = devices.run_collect(run, results, force)
    if as_json:
        show_json(found)
    else:
        show(profile_table(found))
        say(*comparison_lines(found), f"next: rmtkd-edge report {run}")
    devices.refuse_missed_budgets(run, [found])


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="profile/NAME.json of a run, or a results.json.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same models and loads.")],
    as_json: JsonOption = False,
) -> None:
    """Set two measurements side by side: another day, another device, another setting, or another model.

    Ratios are B / A, with an interval; whatever else differs between the two is named.
    """
    from rmtkd_edge.profile.across_sessions import contrast_files
    from rmtkd_edge.cli.tables import contrast_lines, contrast_table

    found = contrast_files(a, b)
    if as_json:
        show_json([item.to_dict() for item in found])
        return
    show(contrast_table(found))
    say(*contrast_lines(found))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or several run directories.")],
    out: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="Folder; the first run's report/ when left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the device benchmark report: report.md, one self-contained report.html, and the figures."""
    from rmtkd_edge import workflow

    paths = workflow.run_report(runs, out)
    if as_json:
        show_json(paths)
    else:
        say(str(paths["html"]), str(paths["markdown"]))


@app.command()
def demo(
    task: Annotated[DemoTask, typer.Option(help="Sentences and an encoder, or digits and a ResNet.")] = DemoTask.text,
    hub: Annotated[bool, typer.Option("--hub", help="SST-2 from the hub in place of the packaged sentences.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory; runs/demo or runs/demo-images when left out.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A copy of SST-2 (folder or file); with --hub.")] = None,
    force: ForceOption = False,
) -> None:
    """All four stages, offline, on real sentences or images that Python packages ship (minutes on two cores).

    What an earlier call finished is kept; --force begins again.
    """
    from rmtkd_edge import workflow
    from rmtkd_edge.errors import UserError
    from rmtkd_edge.cli.tables import comparison_lines, summary_table

    if data is not None and not hub:
        raise UserError(
            "--data goes with --hub: it is a copy of that data set", "rmtkd-edge compress RECIPE --data ... takes yours"
        )
    if hub and task is DemoTask.images:
        raise UserError("--hub goes with --task text", "rmtkd-edge compress resnet18-cifar10 --out DIR reads the hub")
    out = out or Path("runs/demo-images" if task is DemoTask.images else "runs/demo")
    with progress() as reporter:
        run, paths = workflow.run_demo(out, hub, data, force, reporter, images=task is DemoTask.images)
    device = workflow.DEMO_DEVICE
    show(summary_table(run, device))
    say(*comparison_lines(run.read_json(f"profile/{device}.json")), f"report: {paths['html']}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed, which providers and meters this machine really has, what conflicts, and what to do."""
    from dataclasses import asdict

    from rmtkd_edge.cli.examine import examine
    from rmtkd_edge.cli.tables import table_of

    checks = examine()
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        show(
            table_of(["check", "state", "found", "what to do"], [[c.name, c.state, c.found, c.advice] for c in checks])
        )
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)


@app.command()
def recipes(
    keys: Annotated[bool, typer.Option("--keys", help="List every recipe key with its default and meaning.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that ship, or every recipe key."""
    from rmtkd_edge.config.recipe import describe_keys, list_recipes, load_recipe
    from rmtkd_edge.cli.tables import table_of

    rows = describe_keys() if keys else [{"recipe": name, "title": load_recipe(name).title} for name in list_recipes()]
    if as_json:
        show_json(rows)
    else:
        show(table_of(list(rows[0]), [list(row.values()) for row in rows]))


@app.command()
def profiles(as_json: JsonOption = False) -> None:
    """List the hardware profiles that ship."""
    from rmtkd_edge.config.hardware import list_profiles, load_profile
    from rmtkd_edge.cli.tables import table_of

    found = [load_profile(name) for name in list_profiles()]
    rows = [{"profile": p.name, "device": p.title, "provider": p.provider, "transport": p.transport} for p in found]
    if as_json:
        show_json(rows)
    else:
        show(table_of(list(rows[0]), [list(row.values()) for row in rows]))


@app.command()
def calibrate(
    on: Annotated[
        str, typer.Option("--on", "--device", help="Hardware profile: of this machine, or of --host.")
    ] = "local-cpu",
    host: Annotated[str | None, typer.Option(help="The device's name for ssh; else this machine.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File; PROFILE-calibrated.toml when left out.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure latency against width on this device, and write the best multiples into a copy of its profile.

    Then: rmtkd-edge compress RECIPE --on FILE.toml rounds widths up to them. Takes about a minute.
    """
    from rmtkd_edge import devices
    from rmtkd_edge.cli.tables import calibration_table

    with progress(as_json) as reporter:
        path, profile = devices.run_calibrate(on, out, force, reporter, host)
    if as_json:
        show_json({"path": str(path), **profile.model_dump(mode="json")})
        return
    show(calibration_table(profile))
    say(
        f"{path}: convolutions to multiples of {profile.alignment.conv}, products to multiples of "
        f"{profile.alignment.gemm}",
        f"next: rmtkd-edge compress RECIPE --on {path}",
    )


def print_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        from rmtkd_edge import __version__

        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line (on sys.argv when `argv` is None) and leave with its exit code."""
    from rmtkd_edge.errors import RmtkdError

    try:
        code = app(args=argv, standalone_mode=False)
    except RmtkdError as error:
        explain(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: a wrong option or argument
            error.show()  # type: ignore[attr-defined]
            sys.exit(getattr(error, "exit_code", 2))
        traceback.print_exc()
        complain("this is a fault of rmtkd-edge; please report it with the lines above")
        sys.exit(3)
    if code == INTERRUPTED:  # typer turns the signal into this code
        complain("interrupted; run the same command again to resume")
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: Any) -> None:
    """Print what is wrong, the rows of a finding, and what to type next, to standard error."""
    complain(f"error: {error.message}")
    if getattr(error, "table", None):
        from rmtkd_edge.cli.tables import table_of

        Console(stderr=True).print(table_of(error.table[0], error.table[1:]))
    if error.hint:
        complain(f"try: {error.hint}")


def complain(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr)
