"""The four stages, put together: which run they work on, in which order they may run, what goes from one to the next.

Stages meet in the run directory alone. What is measured on devices is in devices.py, a compression's latency budget in
budget.py.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.run.freshness import stale_profiles
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.cli.progress import Reporter
from rmtkd_edge.config.recipe import Recipe, load_recipe
from rmtkd_edge.run.directory import MANIFEST, Run

DEMO_DEVICE = "local-cpu"
HUB_DEMO = (
    'title="Demo: MiniLM-L6 on SST-2"',
    'task.name="sst2"',
    'task.hub="nyu-mll/glue"',
    'task.hub_config="sst2"',
    'task.text=["sentence"]',
    'task.labels=["negative", "positive"]',
)


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
    from rmtkd_edge.budget import latency_measure
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


def run_export(
    path: Path,
    int8: bool | None,
    opset: int | None,
    data: Path | None,
    force: bool,
    reporter: Reporter,
    fp16: bool | None = None,
) -> dict[str, Any]:
    """Run the export stage and return its result; None leaves `int8`, `fp16` and `opset` to the recipe."""
    run = Run.open(path)
    require(run, "compress", f"rmtkd-edge compress {path / 'recipe.toml'} --out {path}")
    from rmtkd_edge.export.stage import export_run

    return export_run(run, int8=int8, fp16=fp16, opset=opset, data=data, reporter=reporter, force=force)


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
    from rmtkd_edge.devices import run_profile

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
