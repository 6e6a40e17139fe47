"""What can be asked of a measurement, each with its only default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rmtkd_edge.config.hardware import HardwareProfile, load_profile, parse_profile

Device = str | Path | HardwareProfile  # a profile, or what load_profile finds it by


def profile_of(device: Device, threads: int | None = None) -> HardwareProfile:
    """Return the profile of a device, with other threads where they are given.

    Raises:
        RecipeError: there is no such profile, or it has faults.
    """
    profile = device if isinstance(device, HardwareProfile) else load_profile(device)
    if threads is None:
        return profile
    return parse_profile({**profile.model_dump(), "detect": False, "threads": threads}, f"{profile.name}, --threads")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured and for how long; what is left out comes from the hardware profile.

    Attributes:
        run: the run directory; an exported folder will do for `profile`.
        batch_sizes: batch sizes.
        lengths: tokens a sequence.
        threads: of one onnxruntime session.
        quick: 50 runs and 10 s a model and workload in place of 200 and 60.
        min_runs: runs a model and workload at least, in place of either.
        min_duration_s: seconds a model and workload at least, in place of either.
        meter: `auto` takes the first of the profile's that opens; another name must open.
        seed: of inputs, of the order of the models, and of intervals; the run's own when None.
        force: replace what is there.
    """

    run: Path
    batch_sizes: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    threads: int | None = None
    quick: bool = False
    min_runs: int | None = None
    min_duration_s: float | None = None
    meter: str = "auto"
    seed: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(MeasureOptions):
    """How one or several devices are measured.

    Attributes:
        on: the devices.
        host: the device's name for ssh, before the profile's own; this machine without either.
        python: the Python that measures, on the device.
        javascript: folder of node_modules, for Node and the browser.
        timeout_s: when to stop waiting; what was measured is kept.
    """

    on: Device | tuple[Device, ...] = "local-cpu"
    host: str | None = None
    python: str | None = None
    javascript: Path | None = None
    timeout_s: float | None = None

    def profiles(self) -> tuple[HardwareProfile, ...]:
        """Return the profiles of all devices, with the threads that were asked for; see profile_of."""
        devices = self.on if isinstance(self.on, tuple) else (self.on,)
        return tuple(profile_of(device, self.threads) for device in devices)

    def of(self, profile: HardwareProfile) -> ProfileOptions:
        """Return the same options for one of the devices."""
        return replace(self, on=profile)


@dataclass(frozen=True, kw_only=True)
class BundleOptions(MeasureOptions):
    """Which device a bundle is for, and where it is written.

    Attributes:
        on: the device.
        out: the folder; RUN-PROFILE when None.
    """

    on: Device
    out: Path | None = None
