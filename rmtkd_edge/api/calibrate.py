"""`calibrate`: latency against width on a device, and the multiples that widths are best rounded up to there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.profile.calibrate import calibrate, write_profile
from rmtkd_edge.profile.profile_copy import refuse_target
from rmtkd_edge.run.reporter import Reporter, SilentReporter


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Which device is measured, and where the copy of its profile is written.

    Attributes:
        on: name or file of a hardware profile: of this machine, or of `host`.
        host: the device's name for ssh.
        out: a .toml file; PROFILE-calibrated.toml when None.
    """

    on: str = "local-cpu"
    host: str | None = None
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Calibrated:
    """The file that was written, and the profile in it."""

    path: Path
    profile: HardwareProfile


def calibrate_device(options: CalibrateOptions, reporter: Reporter | None = None) -> Calibrated:
    """Measure a device's curves, and write a copy of its profile that holds them.

    Raises:
        UserError: the profile is of another device, or `out` is no .toml file.
        RunDirError: the file is there already and `force` is not set.
        ProviderError: the provider is not there.
    """
    profile = load_profile(options.on)
    target = options.out or Path(f"{profile.name}-calibrated.toml")
    refuse_target(target, options.force, "calibration")
    found = calibrate(profile, reporter or SilentReporter(), options.host)
    return Calibrated(target, write_profile(options.on, found, target))
