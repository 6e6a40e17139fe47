"""The stage: a run and a hardware profile in, the record of the session settings that were tried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.hardware import HardwareProfile, Session, resolve_threads
from rmtkd_edge.errors import UserError
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.profile.identity import RUNTIMES, refuse_device
from rmtkd_edge.profile.measuring.sessions import ON_DEVICE
from rmtkd_edge.profile.models import ModelFile, find_models
from rmtkd_edge.profile.options import ProfileOptions
from rmtkd_edge.profile.plan import Measurement, build_bundle, prepare
from rmtkd_edge.profile.ratios import LEAST_ROUNDS
from rmtkd_edge.profile.reach import Reach, carry_out
from rmtkd_edge.profile.stage import single
from rmtkd_edge.profile.transport_local import progress_of
from rmtkd_edge.profile.tune.search import Measured, changes_of, search
from rmtkd_edge.run.layout import ROLES, tuning_record
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import WorkloadRecord
from rmtkd_edge.run.records.tuning import SessionRecord, TunedSession, TuningRecord
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.run.scratch import scratch_folder

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


def tune_run(run: Run, options: ProfileOptions, reporter: Reporter) -> TuningRecord:
    """Try session settings on one device, keep all of it in tuning/NAME.json and the best in export/rmtkd.json.

    Raises:
        UserError: the profile is of another device, of another runtime or emulated, or options make no sense.
        RunDirError: nothing was exported.
        ProviderError: the provider is not there.
        Finding: with one of the settings, outputs differ from the host's.
    """
    profile = single(options)
    refuse_untunable(profile, options)
    exported = find_models(run)
    mine = tuple(m for m in exported.models if m.path.is_relative_to(run.path_of(ROLES["candidate"].folder)))
    measurement = prepare(replace(exported, models=mine), profile, options, run.manifest["seed"])
    measurement = replace(
        measurement,
        workloads=measurement.workloads[:1],
        effort=replace(measurement.effort, idle_s=0.0, probe_repeats=0),
        meter="unavailable",
    )
    if measurement.effort.rounds < LEAST_ROUNDS:
        raise UserError(
            f"{measurement.effort.rounds} rounds tell nothing of settings: an interval needs {LEAST_ROUNDS}",
            f"--iterations {LEAST_ROUNDS} or more",
        )
    found = tune(measurement, options, reporter)
    run.write_record(tuning_record(profile.name), found)
    exported_record = run.read_record(ExportRecord, ROLES["candidate"].record)
    sessions = {**exported_record.sessions, profile.name: found.chosen}
    run.write_record(ROLES["candidate"].record, replace(exported_record, sessions=sessions))
    return found


def tune(measurement: Measurement, options: ProfileOptions, reporter: Reporter) -> TuningRecord:
    """Return what was tried of a measurement's last file, and the settings to keep."""
    profile, model = measurement.profile, measurement.exported.models[-1]
    own = SessionRecord(resolve_threads(profile), profile.spinning, **profile.session.model_dump())
    documents: list[dict[str, Any]] = []

    def measure(sessions: Mapping[str, SessionRecord]) -> dict[str, Measured]:
        reporter.event("stage", name=f"{model.label} on {profile.name}: {', '.join(sessions)}")
        documents.append(_measured(measurement, model, sessions, options, reporter))
        return {
            result["label"].removeprefix(f"{model.label}, "): Measured(
                [[ns / 1e6 for ns in taken] for taken in result["latency"]["rounds_ns"]], result["quality"]["verdict"]
            )
            for result in documents[-1]["results"]
        }

    changes = changes_of(own, cores_of(profile, options), profile.provider in ON_DEVICE)
    trials, kept = search(own, changes, measure, measurement.seed)
    workload = measurement.workloads[0]
    return TuningRecord(
        profile=profile.name,
        title=profile.title,
        env=documents[-1]["env"],
        trials=tuple(trials),
        chosen=TunedSession(
            session=own if kept is None else kept.session,
            model=model.label,
            sha256=model.sha256,
            workload=WorkloadRecord(workload.batch, workload.seq),
            ratio=None if kept is None else kept.ratio,
            ci95=None if kept is None else kept.ci95,
        ),
        notes=measurement.notes,
    )


def _measured(
    measurement: Measurement,
    model: ModelFile,
    sessions: Mapping[str, SessionRecord],
    options: ProfileOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Return the runner's document on one file with several settings, which take turns like models."""
    way = Reach(options.host, options.timeout_s, options.python)
    trials = {f"{model.label}, {name}": asdict(session) for name, session in sessions.items()}
    with scratch_folder("tune") as folder:
        build_bundle(folder, measurement, trials={model.label: trials})
        return carry_out(folder, folder / "results.json", measurement.profile, way, progress_of(reporter))


def refuse_untunable(profile: HardwareProfile, options: ProfileOptions) -> None:
    """Raise UserError for a device whose session settings cannot be tried, and for more than one workload."""
    if profile.transport in RUNTIMES:
        raise UserError(
            f"--tune tries the settings of onnxruntime in Python; {profile.name} has another (transport "
            f"{profile.transport}), without these settings",
            "--on local-cpu, or a profile of another device",
        )
    if profile.emulated:
        raise UserError(f"{profile.name} is emulated: its times mean nothing", "tune on the device itself")
    if len(options.batch_sizes) > 1 or len(options.lengths) > 1:
        raise UserError("--tune tunes for one workload", "give one --batch-size and one --seq-len")
    refuse_device(profile, options.host, options.python)


def cores_of(profile: HardwareProfile, options: ProfileOptions) -> int | None:
    """Return the cores that may be tried; None where the threads are given, or the device's cores are not known."""
    if options.threads is not None:
        return None
    remote = options.host is not None or profile.host is not None
    cores = profile.processor.cores if remote else detect_machine().usable_cores
    return min((n for n in (cores, profile.limits.cores) if n is not None), default=None)


def profile_keys(chosen: TunedSession) -> dict[str, Any]:
    """Return the keys of a hardware profile that hold the settings."""
    settings = asdict(chosen.session)
    return {
        "threads": settings.pop("threads"),
        "spinning": settings.pop("spinning"),
        "session": Session(**settings).model_dump(),
    }
