"""`profile`: the exported models measured on one or several devices."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.api.card import refresh_cards
from rmtkd_edge.errors import Finding, RunDirError, UserError
from rmtkd_edge.profile.budget import RecipeBudget, missed_budgets
from rmtkd_edge.profile.identity import refuse_device
from rmtkd_edge.profile.models import find_exported
from rmtkd_edge.profile.options import Device, ProfileOptions
from rmtkd_edge.profile.several import profile_several
from rmtkd_edge.profile.stage import profile_exported
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.freshness import stale_profiles
from rmtkd_edge.run.layout import MANIFEST, profile_record, read_device, read_recipe
from rmtkd_edge.run.lock import open_to_write
from rmtkd_edge.run.records.profile import MeasurementRecord, ProfileRecord
from rmtkd_edge.run.reporter import Reporter, SilentReporter

__all__ = ["ProfileOptions", "ProfileResult", "profile", "profile_run"]
HEADER = ("device", "model", "batch", "tokens", "p50 ms", "p90 ms", "disk MB", "verdict")


@dataclass(frozen=True)
class ProfileResult:
    """What was measured, a record a device; `missed` is the finding where no file keeps a device's budgets."""

    records: tuple[ProfileRecord, ...]
    missed: Finding | None = None

    def __repr__(self) -> str:
        measured = [_row(record.profile, result) for record in self.records for result in record.results]
        widths = [max(map(len, column)) for column in zip(HEADER, *measured, strict=True)]
        rows = ("  ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)).rstrip() for row in (HEADER, *measured))
        return "\n".join([*rows, *(note for record in self.records for note in record.notes)])

    def _repr_html_(self) -> str:
        measured = [_row(record.profile, result) for record in self.records for result in record.results]
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in measured)
        notes = "".join(f"<p>{html.escape(note)}</p>" for record in self.records for note in record.notes)
        return f"<table><tr>{''.join(f'<th>{name}</th>' for name in HEADER)}</tr>{rows}</table>{notes}"


def _row(device: str, result: MeasurementRecord) -> tuple[str, ...]:
    p50, p90 = (("-" if v is None else f"{v:.2f}") for v in (result.latency.p50, result.latency.p90))
    seq = "-" if result.workload.seq is None else str(result.workload.seq)
    size = f"{result.model.disk_bytes / 1e6:.1f}"
    return device, result.label, str(result.workload.batch), seq, p50, p90, size, result.verdict


def profile_run(options: ProfileOptions, reporter: Reporter | None = None) -> ProfileResult:
    """Measure a run's exported models, in turn with the uncompressed ones; every device's record is kept in the run.

    Several devices are measured at the same time.

    Raises:
        UserError: a device cannot be measured, or is named twice.
        RunDirError: nothing was exported, or a device was measured already and `force` is not set.
        Finding: outputs differ from the host's.
    """
    refuse_names(options)
    with open_to_write(options.run) as run:
        refuse_devices(run, options)
        budget = recipe_budget(run)
        records = profile_several(run, options, reporter or SilentReporter())
        refresh_cards(run)
    return ProfileResult(tuple(records), missed_budgets(run.path, records, budget))


def profile(
    folder: str | os.PathLike[str],
    *,
    on: Device | Sequence[Device] = "local-cpu",
    quick: bool = False,
    batch_sizes: Sequence[int] = (),
    lengths: Sequence[int] = (),
    threads: int | None = None,
    min_runs: int | None = None,
    min_duration_s: float | None = None,
    meter: str = "auto",
    host: str | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> ProfileResult:
    """Measure what a folder holds with onnxruntime: an exported folder, one with export/ in it, or a run directory.

    Args:
        on: hardware profiles: names, .toml files, or values.
        quick: 50 runs and 10 s a model and workload in place of 200 and 60.
        batch_sizes: the profile's when left out.
        lengths: tokens a sequence; the profile's when left out.
        threads: of onnxruntime; the profile's when left out.
        min_runs, min_duration_s: of a model and workload at least; those of `quick` or its opposite when left out.
        meter: `auto`, or an energy meter that must open.
        host: the device's name for ssh; this machine without one.
        force: measure again what a run has already.

    Returns:
        A record a device; in a run they are kept as profile/NAME.json, else nothing is written.
    """
    options = ProfileOptions(
        run=Path(folder),
        on=on if isinstance(on, Device) else tuple(on),
        quick=quick,
        batch_sizes=tuple(batch_sizes),
        lengths=tuple(lengths),
        threads=threads,
        min_runs=min_runs,
        min_duration_s=min_duration_s,
        meter=meter,
        host=host,
        force=force,
    )
    if (options.run / MANIFEST).is_file():
        return profile_run(options, reporter)
    exported = find_exported(options.run)
    records = [
        profile_exported(exported, options.of(device), reporter or SilentReporter()) for device in options.profiles()
    ]
    return ProfileResult(tuple(records), missed_budgets(options.run, records, None))


def refuse_names(options: ProfileOptions) -> None:
    """Raise UserError for devices that are named twice, or for several at one host."""
    names = [device.name for device in options.profiles()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--on {','.join(names)!r}: every device once, and at least one", "--on local-cpu")
    if options.host is not None and len(names) > 1:
        raise UserError(
            f"--host {options.host} is one device, --on names {len(names)}", "write `host` into their profiles"
        )


def refuse_devices(run: Run, options: ProfileOptions) -> None:
    """Raise for a run without an export, and for devices that cannot be measured, before any is."""
    refuse_unexported(run)
    stale = stale_profiles(run)
    for device in options.profiles():
        refuse_device(device, options.host, options.python)
        if run.has(profile_record(device.name)) and device.name not in stale and not options.force:
            raise RunDirError(f"{run.path} was measured on {device.name} already", "add --force to measure again")


def refuse_unexported(run: Run) -> None:
    """Raise RunDirError, with the command to type, for a run whose export has not finished."""
    if run.stage("export").get("state") != "done":
        raise RunDirError(f"the stage export has not finished in {run.path}", f"rmtkd-edge export {run.path}")


def recipe_budget(run: Run) -> RecipeBudget | None:
    """Return what the run's recipe demands of its device, None where it names none."""
    recipe = read_recipe(run)
    device = read_device(run, recipe)
    stop = recipe.stop
    return None if device is None else RecipeBudget(device.name, stop.latency_ms, stop.disk_mb, stop.energy_mj)
