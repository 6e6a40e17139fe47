"""The stage: what was exported and a hardware profile in, the record of a device out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import UserError
from rmtkd_edge.profile.assemble import assemble
from rmtkd_edge.profile.emulation import refuse_disagreement
from rmtkd_edge.profile.identity import refuse_device
from rmtkd_edge.profile.models import Exported, find_models
from rmtkd_edge.profile.options import ProfileOptions
from rmtkd_edge.profile.plan import Measurement, build_bundle, prepare
from rmtkd_edge.profile.reach import Reach, carry_out
from rmtkd_edge.profile.transport_local import progress_of
from rmtkd_edge.run.layout import profile_partial, profile_record
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.run.scratch import scratch_folder

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


def profile_run(run: Run, options: ProfileOptions, reporter: Reporter) -> ProfileRecord:
    """Measure a run's models on one device, write profile/NAME.json and return it.

    A measurement that was stopped continues when this is called again.

    Raises:
        UserError: the profile is of another device, or options make no sense.
        RunDirError: nothing was exported.
        ProviderError: a provider or meter is not there.
        Finding: outputs differ from the host's.
    """
    profile = single(options)
    refuse_device(profile, options.host, options.python)
    measurement = prepare(find_models(run), profile, options, run.manifest["seed"])
    partial = run.path_of(profile_partial(profile.name))
    run.mark("profile", "running", on=profile.name)
    record = measure(measurement, partial, options, reporter)
    run.write_record(profile_record(profile.name), record)
    partial.unlink(missing_ok=True)
    run.mark("profile", "done", on=profile.name, results=len(record.results))
    refuse_disagreement(record)
    return record


def profile_exported(exported: Exported, options: ProfileOptions, reporter: Reporter) -> ProfileRecord:
    """Measure exported models that are in no run on one device; nothing is written. Raises what profile_run raises."""
    profile = single(options)
    refuse_device(profile, options.host, options.python)
    measurement = prepare(exported, profile, options, 0)
    with scratch_folder("profile") as folder:
        record = measure(measurement, folder / "results.json", options, reporter)
    refuse_disagreement(record)
    return record


def measure(measurement: Measurement, partial: Path, options: ProfileOptions, reporter: Reporter) -> ProfileRecord:
    """Carry out a measurement where its device is; what is finished of it stays at `partial` until it is whole."""
    way = Reach(options.host, options.timeout_s, options.python, options.javascript)
    with scratch_folder("bundle") as folder:
        build_bundle(folder, measurement)
        document = carry_out(folder, partial, measurement.profile, way, progress_of(reporter))
    return assemble(document, measurement, partial)


def single(options: ProfileOptions) -> HardwareProfile:
    """Return the profile of options that name one device; raise UserError for several."""
    profiles = options.profiles()
    if len(profiles) != 1:
        raise UserError(f"{len(profiles)} devices where one is measured", "name one, or measure several at once")
    return profiles[0]
