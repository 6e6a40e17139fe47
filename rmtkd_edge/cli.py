"""The command line: argv in, text and an exit code out. The only file of the package that prints.

Exit codes: 0 fine; 1 a finding (a verification or a budget failed); 2 the user's error; 3 a fault of this program.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rmtkd_edge.run import Run

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Compress encoders by random-matrix-guided self-distillation (RMT-KD), export them to ONNX, measure them on a device.",
    epilog="Start here: [bold]rmtkd-edge demo[/] runs all four stages offline in a few minutes.",
)  # fmt: skip
out = Console()
err = Console(stderr=True)

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Run directory to write.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder (train.*, validation.*) or file; overrides the hub.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: --set distil.alpha=0.7 (repeatable).")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
RunArgument = Annotated[Path, typer.Argument(help="Run directory, as written by compress.")]


def reporter(quiet: bool) -> Any:
    """Return what shows progress: nothing under --json."""
    from rmtkd_edge.progress import ConsoleReporter, SilentReporter

    return SilentReporter() if quiet else ConsoleReporter(out)


def show_json(value: Any) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=1, default=str))


@app.command()
def compress(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of one that ships (rmtkd-edge recipes).")],
    run_dir: OutOption,
    data: DataOption = None,
    overrides: SetOption = None,
    one_shot: Annotated[bool, typer.Option("--one-shot", help="Closed form only: nothing is trained.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (recipe key `seed`).")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train, analyse spectra, project, self-distil: the RMT-KD loop.

    A run that was stopped is continued by the same command. `--out` with a finished run, or one of another recipe, needs
    --force.
    """
    from rmtkd_edge.recipe import load_recipe

    items = list(overrides or [])
    items += ["compress.one_shot=true"] if one_shot else []
    items += [f"seed={seed}"] if seed is not None else []
    resolved = load_recipe(recipe, items)
    result = run_compress(resolved, run_dir, data, force, reporter(as_json))
    if not is_main_process():
        return
    if as_json:
        show_json(result)
        return
    teacher, student = result["teacher"], result["student"]
    out.print(
        f"\n{run_dir}: {teacher['parameters']:,} -> {student['parameters']:,} parameters ({result['reduction']:.1%} fewer), "
        f"accuracy {teacher['accuracy']:.4f} -> {student['accuracy']:.4f}\nnext: rmtkd-edge export {run_dir}",
        highlight=False,
    )


def run_compress(recipe: Any, path: Path, data: Path | None, force: bool, show: Any) -> dict[str, Any]:
    """Run or continue the compress stage; the run directory is made by the main process."""
    from rmtkd_edge.compress.stage import compress_run

    run = open_or_create(recipe, path, force)
    if run.stage("compress").get("state") == "done":
        from rmtkd_edge.errors import RunDirError

        raise RunDirError(f"{path} holds a finished run of this recipe", f"rmtkd-edge export {path}, or --force to compress again")
    return compress_run(run, recipe, data=data, reporter=show, measure_latency_ms=latency_measure(recipe))


def open_or_create(recipe: Any, path: Path, force: bool) -> Run:
    """Return the run to continue, or a new one; raise RunDirError where another recipe's run is there without --force."""
    import hashlib

    from rmtkd_edge.errors import RunDirError
    from rmtkd_edge.run import MANIFEST, Run

    text = recipe.to_toml()
    if not is_main_process():
        wait_for_run(path, hashlib.sha256(text.encode()).hexdigest())
        return Run.open(path)
    if (path / MANIFEST).is_file() and not force:
        run = Run.open(path)
        if run.manifest["recipe_sha256"] == hashlib.sha256(text.encode()).hexdigest():
            return run
        raise RunDirError(f"{path} holds a run of another recipe (see {path / 'recipe.toml'})", "choose another --out, or add --force to replace it")
    return Run.create(path, text, recipe.seed, force)


def is_main_process() -> bool:
    """Return whether this is the process that writes (of those that accelerate launch or torchrun started)."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_run(path: Path, recipe_sha256: str, seconds: float = 120.0) -> None:
    """Wait until the main process has made the run directory."""
    import time

    from rmtkd_edge.errors import RunDirError
    from rmtkd_edge.run import MANIFEST

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        file = path / MANIFEST
        if file.is_file() and recipe_sha256 in file.read_text(encoding="utf-8"):
            return
        time.sleep(0.1)
    raise RunDirError(f"{path} was not made by the main process within {seconds:.0f} s", "is --out on a shared file system?")


def latency_measure(recipe: Any) -> Any:
    """Return a function that measures a model's latency for the budget, or None where the recipe has none."""
    if recipe.stop.latency_ms is None:
        return None
    from rmtkd_edge.hardware import load_profile
    from rmtkd_edge.profile.quick import quick_latency_ms

    profile = load_profile(recipe.stop.profile)

    def measure(encoder: Any) -> float:
        from rmtkd_edge.export.to_onnx import to_onnx_bytes

        return quick_latency_ms(to_onnx_bytes(encoder, recipe.export), profile, recipe.task.max_length, encoder.spec.vocab)

    return measure


@app.command()
def export(
    run_dir: RunArgument,
    no_int8: Annotated[bool, typer.Option("--no-int8", help="fp32 only.")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset (recipe key export.opset).")] = None,
    data: DataOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fold the projections, emit ONNX (fp32 and int8), and prove that every file computes what the model computes."""
    result = run_export(run_dir, False if no_int8 else None, opset, data, force, reporter(as_json))
    if as_json:
        show_json(result)
        return
    table = Table("variant", "file", "MB", "accuracy", box=None, padding=(0, 2))
    for name, variant in result["variants"].items():
        if variant.get("refused"):
            table.add_row(name, f"refused: {variant['refused']}", "", "")
        else:
            table.add_row(name, variant["file"], f"{variant['size_bytes'] / 1e6:.2f}", f"{variant['accuracy']:.4f}")
    out.print(table)
    out.print(f"\nnext: rmtkd-edge profile {run_dir} --on local-cpu", highlight=False)


def run_export(path: Path, int8: bool | None, opset: int | None, data: Path | None, force: bool, show: Any) -> dict[str, Any]:
    """Run the export stage."""
    from rmtkd_edge.errors import RunDirError
    from rmtkd_edge.export.stage import export_run
    from rmtkd_edge.run import Run

    run = Run.open(path)
    if run.stage("compress").get("state") != "done":
        raise RunDirError(f"{path} is not compressed yet", "continue it: rmtkd-edge compress RECIPE --out " + str(path))
    if run.stage("export").get("state") == "done" and not force:
        raise RunDirError(f"{path} is exported already", "add --force to export again")
    return export_run(run, int8=int8, opset=opset, data=data, reporter=show, force=force)


@app.command()
def profile(
    run_dir: RunArgument,
    on: Annotated[str, typer.Option("--on", help="Hardware profile, or several with commas (rmtkd-edge profiles).")] = "local-cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes; few percentiles, no energy window.")] = False,
    meter: Annotated[str, typer.Option(help="Energy meter: auto, or one by name (rmtkd-edge doctor).")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of onnxruntime; the profile's when left out.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Batch size (repeatable); the profile's when left out.")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens a sequence; the profile's when left out.")] = None,
    min_runs: Annotated[int | None, typer.Option(help="Runs a model and load, at least.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds a model and load, at least.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the exported models with onnxruntime, interleaved with the uncompressed ones."""
    options = dict(quick=quick, meter=meter, threads=threads, batches=batch_size, seq=seq_len, min_runs=min_runs, duration=duration)
    results = [run_profile(run_dir, name.strip(), force, reporter(as_json), **options) for name in on.split(",")]
    if as_json:
        show_json(results if len(results) > 1 else results[0])
        return
    for result in results:
        out.print(profile_table(result))
    out.print(f"\nnext: rmtkd-edge report {run_dir}", highlight=False)


def run_profile(path: Path, name: str, force: bool, show: Any, **options: Any) -> dict[str, Any]:
    """Run the profile stage on one hardware profile."""
    from rmtkd_edge.errors import RunDirError
    from rmtkd_edge.hardware import load_profile
    from rmtkd_edge.profile.stage import profile_run
    from rmtkd_edge.run import Run

    hardware = load_profile(name)
    run = Run.open(path)
    if run.stage("export").get("state") != "done":
        raise RunDirError(f"{path} is not exported yet", f"rmtkd-edge export {path}")
    if run.has(f"profile/{hardware.name}.json") and not force:
        raise RunDirError(f"{path} was profiled on {hardware.name} already", "add --force to measure again")
    return profile_run(run, hardware, reporter=show, **options)


def profile_table(result: dict[str, Any]) -> Table:
    """Return the table of one profile's results."""
    table = Table("model", "batch", "tokens", "p50 ms", "p90 ms", "per s", "RSS MB", "disk MB", "mJ", "verdict", box=None, padding=(0, 2), title=result["profile"])
    for item in result["results"]:
        latency, energy = item["latency"], item.get("energy") or {}
        joules = energy.get("j_per_inf_net") if energy.get("j_per_inf_net") is not None else energy.get("j_per_inf_gross")
        cell = lambda x, form: "-" if x is None else format(x, form)  # noqa: E731
        table.add_row(
            item["label"], str(item["load"]["batch"]), str(item["load"].get("seq", "")), cell(latency.get("p50"), ".2f"),
            cell(latency.get("p90"), ".2f"), cell(item.get("throughput_per_s"), ".1f"),
            cell((item.get("memory") or {}).get("peak_rss_bytes") and item["memory"]["peak_rss_bytes"] / 1e6, ".0f"),
            f"{item['model']['disk_bytes'] / 1e6:.1f}", f"{joules * 1e3:.1f} ({energy.get('kind')})" if joules is not None else "-",
            (item.get("quality") or {}).get("verdict", ""),
        )  # fmt: skip
    return table


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="One or several run directories.")],
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the report; the first run's report/ when left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the device benchmark report: report.md, one self-contained report.html, and the figures."""
    paths = run_report(run_dirs, folder)
    if as_json:
        show_json(paths)
    else:
        out.print(f"{paths['html']}\n{paths['markdown']}", highlight=False)


def run_report(run_dirs: list[Path], folder: Path | None) -> dict[str, Any]:
    """Run the report stage."""
    from rmtkd_edge.report.stage import report_runs
    from rmtkd_edge.run import Run

    return report_runs([Run.open(path) for path in run_dirs], folder)


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option("--out", "-o", help="Run directory.")] = Path("runs/demo"),
    hub: Annotated[bool, typer.Option("--hub", help="SST-2 from the hub instead of the packaged sentences.")] = False,
    data: DataOption = None,
    force: ForceOption = False,
) -> None:
    """All four stages, offline, on real sentences and a model that Python packages ship (a few minutes on two cores)."""
    from rmtkd_edge.recipe import load_recipe
    from rmtkd_edge.run import Run

    recipe = load_recipe("demo", HUB_DEMO if hub or data else [])
    show = reporter(False)
    run = open_or_create(recipe, run_dir, force)
    steps: list[tuple[str, Any]] = [
        ("compress", lambda: run_compress(recipe, run_dir, data, False, show)),
        ("export", lambda: run_export(run_dir, None, None, None, True, show)),
        ("profile", lambda: run_profile(run_dir, "local-cpu", True, show, quick=True, meter="auto")),
    ]
    for name, step in steps:
        if run.stage(name).get("state") == "done":
            out.print(f"[bold]{name}[/]: done before", highlight=False)
        else:
            out.rule(f"[bold]{name}", align="left")
            step()
        run = Run.open(run_dir)
    paths = run_report([run_dir], None)
    out.print(summary_table(run))
    out.print(f"\nreport: {paths['html']}", highlight=False)


HUB_DEMO = [
    "task.name=sst2", "task.hub=nyu-mll/glue", "task.hub_config=sst2", 'task.text=["sentence"]', "task.train_limit=4000",
    'title="Demo: MiniLM-L6 on SST-2"',
]  # fmt: skip


def summary_table(run: Run) -> Table:
    """Return the demo's last table: the original against the compressed model."""
    result = run.read_json("compress/result.json")
    profiles = [name for name in run.manifest["files"] if name.startswith("profile/") and name.endswith(".json") and name.count("/") == 1]
    measured = run.read_json(profiles[0])["results"]
    first = min((r["load"]["batch"] for r in measured), default=1)
    table = Table("model", "accuracy", "parameters", "disk MB", f"p50 ms (batch {first})", "speed-up", title=result["title"] or None)
    base = next((r["latency"]["p50"] for r in measured if r["label"] == "original fp32" and r["load"]["batch"] == first), None)
    for folder, who, parameters in (("baseline", "original", result["teacher"]), ("export", "rmt-kd", result["student"])):
        for precision, variant in run.read_json(f"{folder}/rmtkd.json")["variants"].items():
            label = f"{who} {precision}"
            p50 = next((r["latency"]["p50"] for r in measured if r["label"] == label and r["load"]["batch"] == first), None)
            if variant.get("refused"):
                table.add_row(label, "refused: " + variant["refused"], "", "", "", "")
                continue
            table.add_row(
                label, f"{variant['accuracy']:.4f}", f"{parameters['parameters']:,}", f"{variant['size_bytes'] / 1e6:.1f}",
                f"{p50:.2f}" if p50 is not None else "-", f"{base / p50:.2f}x" if p50 and base else "-",
            )  # fmt: skip
    return table


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed, which providers and energy meters this machine really has, what conflicts, and what to do."""
    from rmtkd_edge.doctor import examine

    findings = examine()
    if as_json:
        show_json([f.__dict__ for f in findings])
    else:
        table = Table("check", "found", "what to do", box=None, padding=(0, 2))
        for item in findings:
            colour = {"ok": "green", "note": "cyan", "problem": "red"}[item.state]
            table.add_row(f"[{colour}]{item.name}[/]", item.found, item.advice)
        out.print(table)
    if any(f.state == "problem" for f in findings):
        raise typer.Exit(1)


@app.command()
def recipes(
    keys: Annotated[bool, typer.Option("--keys", help="List every recipe key with its default and meaning.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that ship, or every recipe key."""
    from rmtkd_edge.recipe import describe_keys, list_recipes, load_recipe

    if keys:
        rows = describe_keys()
        table = Table("key", "default", "meaning", box=None, padding=(0, 2))
    else:
        rows = [{"recipe": name, "title": load_recipe(name).title} for name in list_recipes()]
        table = Table("recipe", "what", box=None, padding=(0, 2))
    if as_json:
        show_json(rows)
        return
    for row in rows:
        table.add_row(*[str(v) for v in row.values()])
    out.print(table)


@app.command()
def profiles(as_json: JsonOption = False) -> None:
    """List the hardware profiles."""
    from rmtkd_edge.hardware import list_profiles, load_profile

    rows = [{"profile": name, "title": load_profile(name).title} for name in list_profiles()]
    if as_json:
        show_json(rows)
        return
    table = Table("profile", "device", box=None, padding=(0, 2))
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from rmtkd_edge import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line and leave with its exit code."""
    from rmtkd_edge.errors import Finding, RmtkdError

    try:
        code = app(standalone_mode=False)
    except RmtkdError as error:
        err.print(f"error: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
        if isinstance(error, Finding) and error.table:
            table = Table(*error.table[0], box=None, padding=(0, 2))
            for row in error.table[1:]:
                table.add_row(*row)
            err.print(table)
        if error.hint:
            err.print(f"try: {error.hint}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("stopped; the same command continues", highlight=False)
        sys.exit(130)
    except Exception as error:
        if type(error).__module__.startswith("click") or hasattr(error, "format_message"):
            error.show()  # type: ignore[attr-defined]
            sys.exit(getattr(error, "exit_code", 2))
        traceback.print_exc()
        err.print("this is a fault of rmtkd-edge, please report it with the lines above", style="red", highlight=False)
        sys.exit(3)
    sys.exit(code if isinstance(code, int) else 0)
