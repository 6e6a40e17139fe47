"""`compress`: a model by a plan, in closed form; or a recipe, in a run directory."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.api.batches import Loader, first_rows, numbered
from rmtkd_edge.config.hardware import HardwareProfile, list_profiles, load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.errors import RecipeError, RunDirError, UserError
from rmtkd_edge.families.base import NarrowOptions, family_of
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import MANIFEST, RECIPE
from rmtkd_edge.run.leftovers import sweep
from rmtkd_edge.run.lock import RunLock
from rmtkd_edge.run.reporter import reporting

if TYPE_CHECKING:
    from rmtkd_edge.api.plan import Plan
    from rmtkd_edge.compress.latency import Measure
    from rmtkd_edge.families.base import Family
    from rmtkd_edge.families.model import Model
    from rmtkd_edge.run.records.compress import CompressRecord
    from rmtkd_edge.run.records.dry_run import DryRun
    from rmtkd_edge.run.reporter import Reporter


def compress(model: Model, plan: Plan, loader: Loader) -> Model:
    """Return the model cut to a plan's widths, by closed form: nothing is trained.

    Args:
        model: the model whose spectra the plan is of; it is left as it is.
        loader: calibration batches, those that `analyse` saw or others.

    Returns:
        The narrow model, folded, in eval mode.

    Raises:
        UserError: the plan is of another model.
    """
    from rmtkd_edge.compress.ranks.projection import projection

    family = family_of(model)
    folded = family.fold(model).eval()
    if folded.spec != plan.before:
        raise UserError("the plan is of another model than this one", "plan(analyse(model, loader), ...)")
    recipe = plan.settings
    cut = [c for c in plan.sites if c.width_after < c.spectrum.site.width]
    projections = {c.name: projection(c.spectrum, c.width_after, recipe.compress) for c in cut}
    batches = numbered(loader, folded)
    effect = first_rows(batches, recipe.analyse.weighting_rows)
    return family.narrow(folded, projections, batches, effect, NarrowOptions.of(recipe)).eval()


@dataclass(frozen=True)
class CompressOptions:
    """A compression as it is asked for.

    Attributes:
        recipe: path, or name of one that ships.
        out: the run directory to write or continue.
        overrides: `key=value` settings of the recipe.
        data: a folder or file that comes before the recipe's data set.
        one_shot: closed form only, nothing is trained.
        on: hardware profile that widths are aligned to.
        budget: hardware profile whose latency and disk limits hold too, where the recipe has none.
        method, seed: come before the recipe's.
        targets: shares of the parameters to remove, increasing, one student at each; they come before the recipe's.
        force: replace the run that `out` holds.
    """

    recipe: str
    out: Path
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    one_shot: bool = False
    on: str | None = None
    budget: str | None = None
    method: str | None = None
    seed: int | None = None
    targets: tuple[float, ...] = ()
    force: bool = False


def resolve_recipe(options: CompressOptions) -> Recipe:
    """Return the recipe with all that the options add to it; raise RecipeError listing all faults."""
    on, budget = options.on, options.budget
    if on is not None and budget is not None and on != budget:
        raise RecipeError(f"--on {on} and --budget {budget} are two devices", "widths are aligned to one: give one")
    if on is not None:
        load_profile(on)  # its faults first
    items = [
        *options.overrides,
        *([f'stop.profile="{on}"'] if on is not None else []),
        *(["compress.one_shot=true"] if options.one_shot else []),
        *([f'compress.method="{options.method}"'] if options.method is not None else []),
        *([f"seed={options.seed}"] if options.seed is not None else []),
        *([f"stop.target_reduction={list(options.targets)}"] if options.targets else []),
    ]
    recipe = load_recipe(options.recipe, items)
    if budget is None:
        return recipe
    limits = load_profile(budget).budgets.model_dump(include={"latency_ms", "disk_mb", "energy_mj"})
    if not any([*limits.values(), recipe.stop.latency_ms, recipe.stop.disk_mb, recipe.stop.energy_mj]):
        raise RecipeError(
            f"the profile {budget} has no [budgets], and the recipe none of its own",
            "add --set stop.latency_ms=20 or --set stop.disk_mb=10",
        )
    mine = [f"stop.{key}={value}" for key, value in limits.items() if value and getattr(recipe.stop, key) is None]
    return load_recipe(options.recipe, [*items, f'stop.profile="{budget}"', *mine])


def compress_run(options: CompressOptions, reporter: Reporter) -> CompressRecord:
    """Run or continue a compression and return its result; the main process makes the run directory.

    Settings and data are read before a run directory is made, and before `force` replaces one.
    """
    recipe, path = resolve_recipe(options), options.out
    with RunLock(path) as lock:
        if (path / MANIFEST).is_file():
            _prepare_to_write(lock)
            if not options.force:
                refuse_other_run(open_or_create(recipe, path, False), options.data)
        from rmtkd_edge.compress.prepared import prepare
        from rmtkd_edge.compress.stage import compress_run

        with reporting(reporter):
            prepared = prepare(recipe, options.data)
        measure = latency_measure(recipe, prepared.family, prepared.profile)
        _prepare_to_write(lock)
        run = open_or_create(recipe, path, options.force)
        if not options.force:
            refuse_other_run(run, options.data)
        return compress_run(run, recipe, data=options.data, reporter=reporter, measure_ms=measure, prepared=prepared)


def _prepare_to_write(lock: RunLock) -> None:
    """Take the lock of the run directory, in the main process alone, and sweep what killed processes left there."""
    if is_main_process():
        lock.take()
        sweep(lock.path)


def forecast(options: CompressOptions, reporter: Reporter) -> DryRun:
    """Return what a compression would read, aim at and take; nothing is written, and no training is kept.

    Raises:
        RecipeError: the recipe cannot be used.
        DataError: the data cannot be used.
        UserError: the model cannot be loaded, or a latency budget's device is another one, without curves.
    """
    from rmtkd_edge.compress.forecast.stage import dry_run
    from rmtkd_edge.compress.prepared import prepare

    recipe = resolve_recipe(options)
    with reporting(reporter):
        ready = prepare(recipe, options.data)
        latency_measure(recipe, ready.family, ready.profile)  # for its faults
        profiles = {name: load_profile(name) for name in list_profiles()}
        own = {} if ready.profile is None else {ready.profile.name: ready.profile}
        return dry_run(recipe, ready, {**own, **profiles, **own}, reporter, options.data)


def latency_measure(recipe: Recipe, family: Family, profile: HardwareProfile | None) -> Measure | None:
    """Return what measures a folded model's latency in ms for the budget, or None where the recipe has none.

    None too where this machine is not the profile's device, and its curves, which were measured there, tell instead.

    Raises:
        UserError: another device without curves, or several processes.
    """
    if recipe.stop.latency_ms is None or profile is None:
        return None
    from rmtkd_edge.compress.latency import measure_ms, predictor
    from rmtkd_edge.profile.identity import refuse_other_device

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a latency budget is measured in one process", "compress without `accelerate launch`")
    try:
        refuse_other_device(profile)
        known = profile.calibration
        if known is not None and known.processor not in (detect_machine().processor_model, "unknown"):
            raise UserError(f"{profile.name} was calibrated on a {known.processor}")
    except UserError as err:
        if predictor(family, profile) is not None:
            return None
        raise UserError(
            f"a latency budget for {profile.name}, which is another device, needs curves that were measured there",
            f"on the device: rmtkd-edge calibrate --on {profile.name}; then --budget that file (or --on NAME for this "
            "machine)",
        ) from err
    return lambda folded: measure_ms(family, folded, recipe.export, profile)


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
            f"{path} holds a run of another recipe (its own is in {path / RECIPE})",
            "choose another --out, or add --force to replace it",
        )
    if not run.has(RECIPE):  # killed before it was there
        run.write_text(RECIPE, text)
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
