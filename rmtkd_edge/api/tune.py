"""`profile --tune`: the session settings that a run's file is fastest with, into a copy of the hardware profile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.api.card import refresh_cards
from rmtkd_edge.api.profile import ProfileOptions, refuse_names, refuse_unexported
from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import UserError
from rmtkd_edge.profile.profile_copy import refuse_target, write_copy
from rmtkd_edge.profile.stage import single
from rmtkd_edge.profile.tune.stage import profile_keys, refuse_untunable
from rmtkd_edge.profile.tune.stage import tune_run as stage
from rmtkd_edge.run.lock import open_to_write
from rmtkd_edge.run.records.tuning import TuningRecord
from rmtkd_edge.run.reporter import Reporter, SilentReporter


@dataclass(frozen=True)
class Tuned:
    """The file that was written, the profile in it, and all that was tried."""

    path: Path
    profile: HardwareProfile
    record: TuningRecord


def tune_run(options: ProfileOptions, out: Path | None = None, reporter: Reporter | None = None) -> Tuned:
    """Try session settings on a device; the best go into a copy of its profile and into the exported folder's card.

    Args:
        out: the copy, a .toml file; PROFILE-tuned.toml when None.

    Raises:
        UserError: the device cannot be tuned, or `out` is no .toml file.
        RunDirError: nothing was exported, or the file is there already and `force` is not set.
        Finding: with one of the settings, outputs differ from the host's.
    """
    refuse_names(options)
    profile = single(options)
    refuse_untunable(profile, options)
    source = options.on[0] if isinstance(options.on, tuple) else options.on
    if isinstance(source, HardwareProfile):
        raise UserError("a profile without a file cannot be copied", "give its name or its .toml file")
    target = out or Path(f"{profile.name}-tuned.toml")
    refuse_target(target, options.force, "tuning")
    with open_to_write(options.run) as run:
        refuse_unexported(run)
        record = stage(run, options, reporter or SilentReporter())
        refresh_cards(run)
    chosen = record.chosen
    tuning = {
        "profile": str(source),
        "model": chosen.model,
        "sha256": chosen.sha256,
        "workload": str(chosen.workload),
        "processor": str(record.env["cpu_model"] or "unknown"),
        "onnxruntime": record.env["onnxruntime"],
        "ratio": chosen.ratio,
        "ci95": chosen.ci95,
    }
    known = {key: value for key, value in tuning.items() if value is not None}
    return Tuned(target, write_copy(source, target, {**profile_keys(chosen), "tuning": known}, {}), record)
