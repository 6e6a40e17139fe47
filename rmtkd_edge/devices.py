"""What is measured on devices: one or several at a time, bundles for those out of reach, curves, budgets."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import Finding, RmtkdError, RunDirError, UserError
from rmtkd_edge.run.freshness import stale_profiles
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.cli.progress import Reporter
from rmtkd_edge.config.recipe import load_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.workflow import require


def run_profiles(
    path: Path,
    names: Sequence[str],
    reporter: Reporter,
    *,
    force: bool = False,
    host: str | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Measure a run on every device and return their JSON in the order of `names`; see run_profile.

    A device that fails does not stop the others, whose figures are kept. Raises UserError, or Finding where all that
    failed are findings, naming each.
    """
    run = refuse_profile(path, names, force, host, options.get("threads"), options.get("python"))
    hosts = {name: host or load_profile(name).host for name in names}
    turns = {machine: threading.Lock() for machine in hosts.values()}  # two on one machine would disturb each other
    failed: dict[str, RmtkdError] = {}

    def measure(name: str) -> dict[str, Any] | None:
        mine = reporter if len(names) == 1 else Named(reporter, load_profile(name).name)
        with turns[hosts[name]]:
            try:
                return run_profile(path, name, mine, run=run, force=force, host=host, **options)
            except RmtkdError as error:
                if len(names) == 1:
                    raise
                failed[name] = error
                mine.event("note", text=f"failed: {error.message}")
                return None

    if len(names) == 1:
        found = [measure(names[0])]
    else:
        with ThreadPoolExecutor(len(names)) as pool:
            found = list(pool.map(measure, names))
    if failed:
        raise summed_up(failed, [name for name in names if name not in failed])
    return [document for document in found if document is not None]


class Named:
    """A reporter that says which device an event is of."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter, self.name = reporter, name

    def event(self, kind: str, **facts: Any) -> None:
        """Pass an event on, its text behind the device's name."""
        text = f"{self.name}: {facts.pop('text', '')}"
        self.reporter.event(kind, text=text, device=self.name, **facts)


def summed_up(failed: dict[str, RmtkdError], measured: Sequence[str]) -> RmtkdError:
    """Return the one error that stands for those of several devices."""
    kind = Finding if all(isinstance(error, Finding) for error in failed.values()) else UserError
    kept = f"\nmeasured and kept: {', '.join(measured)}" if measured else ""
    message = "\n".join(f"{name}: {error.message}" for name, error in failed.items()) + kept
    hints = dict.fromkeys(f"{name}: {error.hint}" for name, error in failed.items() if error.hint)
    return kind(message, "\n     ".join(hints))


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
    from rmtkd_edge.config.hardware import Budgets
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
