"""The four stages, put together: which run they work on, in which order they may run, what goes from one to the next.

Stages meet in the run directory alone; what needs two of them (compress measures its latency budget on an exported
model) is here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import Finding, RecipeError, RunDirError, UserError
from rmtkd_edge.freshness import stale_profiles
from rmtkd_edge.hardware import HardwareProfile, load_profile, resolve_threads
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.progress import Reporter
from rmtkd_edge.recipe import Recipe, load_recipe
from rmtkd_edge.run import MANIFEST, Run

DEMO_DEVICE = "local-cpu"
HUB_DEMO = (
    'title="Demo: MiniLM-L6 on SST-2"',
    'task.name="sst2"',
    'task.hub="nyu-mll/glue"',
    'task.hub_config="sst2"',
    'task.text=["sentence"]',
    'task.labels=["negative", "positive"]',
)
BUDGET_RUNS, BUDGET_SECONDS, BUDGET_WARMUP = 30, 1.0, 5


def resolve_recipe(
    name: str,
    overrides: Sequence[str] = (),
    *,
    one_shot: bool = False,
    seed: int | None = None,
    on: str | None = None,
    budget: str | None = None,
) -> Recipe:
    """Return a recipe with what the command line adds to it.

    `on` names a hardware profile: widths are aligned to it. `budget` names one whose latency and disk limits hold too,
    where the recipe has none. Raises RecipeError listing all faults.
    """
    if on is not None and budget is not None and on != budget:
        raise RecipeError(f"--on {on} and --budget {budget} are two devices", "widths are aligned to one: give one")
    if on is not None:
        load_profile(on)  # its faults first
    items = [
        *overrides,
        *([f'stop.profile="{on}"'] if on is not None else []),
        *(["compress.one_shot=true"] if one_shot else []),
        *([f"seed={seed}"] if seed is not None else []),
    ]
    recipe = load_recipe(name, items)
    if budget is None:
        return recipe
    profile = load_profile(budget)
    limits = {key: getattr(profile.budgets, key) for key in ("latency_ms", "disk_mb")}
    if not any([*limits.values(), recipe.stop.latency_ms, recipe.stop.disk_mb]):
        raise RecipeError(
            f"the profile {budget} has no [budgets], and the recipe none of its own",
            "add --set stop.latency_ms=20 or --set stop.disk_mb=10",
        )
    mine = [f"stop.{key}={value}" for key, value in limits.items() if value and getattr(recipe.stop, key) is None]
    return load_recipe(name, [*items, f'stop.profile="{budget}"', *mine])


def run_compress(recipe: Recipe, path: Path, data: Path | None, force: bool, reporter: Reporter) -> dict[str, Any]:
    """Run or continue the compress stage and return its result; the main process makes the run directory.

    Settings and data are read before a run directory is made, and before `force` replaces one.
    """
    if not force and (path / MANIFEST).is_file():
        refuse_other_run(open_or_create(recipe, path, False), data)
    from rmtkd_edge.compress.stage import compress_run, prepare

    measure, prepared = latency_measure(recipe), prepare(recipe, data)
    run = open_or_create(recipe, path, force)
    return compress_run(run, recipe, data=data, reporter=reporter, measure_latency_ms=measure, prepared=prepared)


def refuse_other_run(run: Run, data: Path | None) -> None:
    """Raise RunDirError for a run whose compress stage has finished, or was begun with other data."""
    known, given = run.stage("compress"), str(data.resolve()) if data else None
    if known.get("state") == "done":
        raise RunDirError(
            f"{run.path} holds a finished run of this recipe",
            f"rmtkd-edge export {run.path}, or add --force to compress again",
        )
    if known and known.get("data") != given:
        raise RunDirError(
            f"{run.path} was begun with {known.get('data') or 'the data of its recipe'}, not with {given or 'those'}",
            f"give the same --data to continue, or add --force to begin again ({run.path})",
        )


def open_or_create(recipe: Recipe, path: Path, force: bool) -> Run:
    """Return the run to continue, or a new one; raise RunDirError where another recipe's is there without `force`."""
    text = recipe.to_toml()
    digest = hashlib.sha256(text.encode()).hexdigest()
    there = (path / MANIFEST).is_file()
    if force and there and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunDirError(
            f"{path} holds a run, and several processes cannot replace it", f"remove it first: rm -r {path}"
        )
    if not is_main_process():
        wait_for_run(path, digest)
        return Run.open(path)
    if not there or force:
        return Run.create(path, text, recipe.seed, force)
    run = Run.open(path)
    if run.manifest.get("recipe_sha256") != digest:
        raise RunDirError(
            f"{path} holds a run of another recipe (its own is in {path / 'recipe.toml'})",
            "choose another --out, or add --force to replace it",
        )
    return run


def is_main_process() -> bool:
    """Return whether this is the process that writes (of those that `accelerate launch` or torchrun started)."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_run(path: Path, recipe_sha256: str, seconds: float = 120.0) -> None:
    """Wait until the main process has made the run directory; raise RunDirError where it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        file = path / MANIFEST
        if file.is_file() and recipe_sha256 in file.read_text(encoding="utf-8"):
            return
        time.sleep(0.1)
    raise RunDirError(
        f"{path} was not made by the main process within {seconds:.0f} s", "is --out on a shared file system?"
    )


def latency_measure(recipe: Recipe) -> Callable[[Any], float] | None:
    """Return what measures a folded model's latency in ms for the budget, or None where the recipe has none.

    Batch 1 at the profile's shortest sequence, median of the runs. None too where this machine is not the profile's
    device and its curves, which were measured there, tell instead; raises UserError without them.
    """
    if recipe.stop.latency_ms is None or recipe.stop.profile is None:
        return None
    from rmtkd_edge.profile.identity import refuse_other_device

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a latency budget is measured in one process", "compress without `accelerate launch`")
    profile = load_profile(recipe.stop.profile)
    try:
        refuse_other_device(profile)
        if profile.calibration is not None and profile.calibration.processor not in (
            detect_machine().processor_model,
            "unknown",
        ):
            raise UserError(f"{profile.name} was calibrated on a {profile.calibration.processor}")
    except UserError as err:
        from rmtkd_edge.compress.latency import predictor

        if predictor(recipe) is not None:
            return None
        raise UserError(
            f"a latency budget for {profile.name}, which is another device, wants curves that were measured there",
            f"on the device: rmtkd-edge calibrate --on {profile.name}; then --budget that file (or --on NAME for this "
            "machine)",
        ) from err
    return lambda model: latency_ms(model, recipe, profile)


def latency_ms(model: Any, recipe: Recipe, profile: HardwareProfile) -> float:
    """Return the median latency of a model as it would be exported in fp32, in ms, on this machine."""
    from statistics import median
    from tempfile import TemporaryDirectory

    from rmtkd_edge.export.conv_to_onnx import export_convnet
    from rmtkd_edge.export.graph import GraphOptions
    from rmtkd_edge.export.sessions import open_session, run_session
    from rmtkd_edge.export.to_onnx import export_onnx
    from rmtkd_edge.profile.plan import Load, build_images, build_inputs

    spec, images = model.spec, recipe.task.kind == "image"
    batch: dict[str, Any]
    if images:
        batch = {**build_images(Load(1, None), spec.image_size, recipe.seed)}
    else:
        batch = {**build_inputs(Load(1, min(*profile.loads.seq, spec.max_length)), spec.vocab, recipe.seed)}
    with TemporaryDirectory(prefix="rmtkd-budget-") as folder:
        file = Path(folder) / "model.onnx"
        options = recipe.export
        graph = GraphOptions(opset=options.opset, attention=options.attention, norm=options.norm)
        (export_convnet if images else export_onnx)(model.cpu().eval(), file, graph)
        session = open_session(file, threads=resolve_threads(profile), provider=profile.provider)
        for _ in range(BUDGET_WARMUP):
            run_session(session, batch)
        values: list[int] = []
        start = time.perf_counter()
        while len(values) < BUDGET_RUNS or time.perf_counter() - start < BUDGET_SECONDS:
            before = time.perf_counter_ns()
            run_session(session, batch)
            values.append(time.perf_counter_ns() - before)
    return median(values) / 1e6


def run_export(
    path: Path, int8: bool | None, opset: int | None, data: Path | None, force: bool, reporter: Reporter
) -> dict[str, Any]:
    """Run the export stage and return its result; None leaves `int8` and `opset` to the recipe."""
    run = Run.open(path)
    require(run, "compress", f"rmtkd-edge compress {path / 'recipe.toml'} --out {path}")
    from rmtkd_edge.export.stage import export_run

    return export_run(run, int8=int8, opset=opset, data=data, reporter=reporter, force=force)


def run_profile(
    path: Path,
    name: str,
    reporter: Reporter,
    *,
    force: bool = False,
    threads: int | None = None,
    batches: Sequence[int] = (),
    lengths: Sequence[int] = (),
    host: str | None = None,
    python: str | None = None,
    run: Run | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure a run on one hardware profile; what is left out comes from the profile, `options` go to profile_run.

    run: the open run, where several devices share it and have been checked.
    """
    hardware = load_profile(name)
    run = run or refuse_profile(path, [name], force, host, threads, python)
    from rmtkd_edge.profile.stage import profile_run

    hardware, loads = asked(run, hardware, threads, batches, lengths)

    def progress(event: dict[str, Any]) -> None:
        reporter.event("runner", **{key: value for key, value in event.items() if key != "event"})

    return profile_run(
        run, hardware, loads=loads, host=host, python=python, seed=run.manifest["seed"], progress=progress, **options
    )


def asked(
    run: Run, hardware: HardwareProfile, threads: int | None, batches: Sequence[int], lengths: Sequence[int]
) -> tuple[HardwareProfile, Any]:
    """Return the profile with the threads asked for, and the loads asked for (None: the profile's own)."""
    from rmtkd_edge.profile.plan import Load

    if threads is not None:
        hardware = hardware.model_copy(update={"threads": threads})
    if not batches and not lengths:
        return hardware, None
    chosen = lengths or default_lengths(run, hardware)
    return hardware, [Load(batch, seq) for seq in chosen for batch in batches or hardware.loads.batches]


def run_bundle(
    path: Path, name: str, out: Path | None, *, threads: int | None = None, batches: Sequence[int] = (),
    lengths: Sequence[int] = (), **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write a bundle of a run for a device and return where it is; `options` go to write_bundle."""
    hardware = load_profile(name)
    run = Run.open(path)
    require(run, "export", f"rmtkd-edge export {run.path}")
    from rmtkd_edge.profile.bundle import write_bundle

    hardware, loads = asked(run, hardware, threads, batches, lengths)
    target = out or run.path.with_name(f"{run.path.name}-{hardware.name}")
    return write_bundle(run, hardware, target, loads=loads, **options)


def run_collect(path: Path, file: Path, force: bool) -> dict[str, Any]:
    """File what a bundle measured, and return profile/<name>.json."""
    from rmtkd_edge.profile.bundle import collect

    return collect(Run.open(path), file, force=force)


def default_lengths(run: Run, hardware: HardwareProfile) -> Sequence[int | None]:
    """Return the sequence lengths of a device's loads; of a model of images one None."""
    from rmtkd_edge.profile.plan import image_size

    return [None] if image_size(run.read_json("export/config.json")) is not None else hardware.loads.seq


def refuse_profile(
    path: Path, names: Sequence[str], force: bool, host: str | None = None, threads: int | None = None,
    python: str | None = None,
) -> Run:  # fmt: skip
    """Return the run to measure; raise UserError or RunDirError for devices that cannot be measured, before any is."""
    from rmtkd_edge.profile.identity import refuse_device

    if not names or len(set(names)) < len(names):
        raise UserError(f"--on {','.join(names)!r}: every device once, and at least one", "--on local-cpu")
    if host is not None and len(names) > 1:
        raise UserError(f"--host {host} is one device, --on names {len(names)}", "write `host` into their profiles")
    changed = {} if threads is None else {"threads": threads}
    profiles = [load_profile(name).model_copy(update=changed) for name in names]
    run = Run.open(path)
    require(run, "export", f"rmtkd-edge export {run.path}")
    stale = stale_profiles(run)
    for hardware in profiles:
        refuse_device(hardware, host, python)
        if run.has(f"profile/{hardware.name}.json") and hardware.name not in stale and not force:
            raise RunDirError(f"{run.path} was measured on {hardware.name} already", "add --force to measure again")
    load_recipe(str(run.path_of("recipe.toml")))  # its budgets are judged at the end: a fault of it comes first
    return run


def refuse_missed_budgets(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """Raise Finding, with a table, where no file of a run keeps the limits of a device, or of the recipe for it.

    `documents` are profiles' JSON, which stay in the run whatever is found.
    """
    from rmtkd_edge.hardware import Budgets
    from rmtkd_edge.profile.budget import files_within, judge, rows

    stop = load_recipe(str(Run.open(path).path_of("recipe.toml"))).stop
    table: list[list[str]] = []
    missed = []
    for document in documents:
        name, budgets = document["profile"], Budgets.model_validate(document["hardware"]["budgets"])
        if stop.profile is not None and load_profile(stop.profile).name == name:
            mine = {key: value for key in ("latency_ms", "disk_mb") if (value := getattr(stop, key)) is not None}
            budgets = budgets.model_copy(update=mine)
        verdicts = judge(document, budgets)
        if verdicts and not files_within(verdicts):
            missed.append(name)
            table += rows(verdicts) if not table else rows(verdicts)[1:]
    if missed:
        raise Finding(
            f"no file of {path} keeps the budgets of {', '.join(missed)}; what was measured is kept",
            f"compress further: rmtkd-edge compress RECIPE --budget {missed[0]}",
            table,
        )


def run_calibrate(
    name: str, out: Path | None, force: bool, reporter: Reporter, host: str | None = None
) -> tuple[Path, HardwareProfile]:
    """Measure a profile's curves on this machine, or over ssh on `host`.

    Returns the copy of the profile that holds them, and its file.
    """
    from rmtkd_edge.profile.calibrate import calibrate, refuse_target, write_profile

    profile = load_profile(name)
    target = out or Path(f"{profile.name}-calibrated.toml")
    refuse_target(target, force)

    def progress(event: dict[str, Any]) -> None:
        reporter.event("runner", **{key: value for key, value in event.items() if key != "event"})

    return target, write_profile(name, calibrate(profile, progress=progress, host=host), target)


def run_report(paths: Sequence[Path], out: Path | None) -> dict[str, Any]:
    """Write the report of one or several runs and return where it is."""
    runs = [Run.open(path) for path in paths]
    from rmtkd_edge.report.stage import report_runs

    return report_runs(runs, out)


def require(run: Run, stage: str, command: str) -> None:
    """Raise RunDirError with the command to type where a stage has not finished."""
    if run.stage(stage).get("state") != "done":
        raise RunDirError(f"the stage {stage} has not finished in {run.path}", command)


def run_demo(
    path: Path, hub: bool, data: Path | None, force: bool, reporter: Reporter, images: bool = False
) -> tuple[Run, dict[str, Any]]:
    """Run what is left of the four stages of the demo; return the run and where its report is."""
    recipe = resolve_recipe("demo-images" if images else "demo", HUB_DEMO if hub else ())
    run = open_or_create(recipe, path, force)

    def measure() -> dict[str, Any]:
        length = [] if images else [recipe.task.max_length]
        return run_profile(path, DEMO_DEVICE, reporter, force=True, quick=True, batches=[1], lengths=length)

    steps: list[tuple[str, Callable[[], Any]]] = [
        ("compress", lambda: run_compress(recipe, path, data, False, reporter)),
        ("export", lambda: run_export(path, None, None, data, True, reporter)),
        ("profile", measure),
    ]
    for name, step in steps:
        done = run.stage(name).get("state") == "done" and not (name == "profile" and stale_profiles(run))
        reporter.event("stage", name=f"{name} (done before)" if done else name)
        if not done:
            step()
        run = Run.open(path)
    return run, run_report([path], None)
