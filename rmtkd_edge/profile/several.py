"""Several devices at the same time: each machine works on one thing, and what fails stops nothing else."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import Finding, RmtkdError, UserError
from rmtkd_edge.profile.options import ProfileOptions
from rmtkd_edge.profile.stage import profile_run
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.reporter import Reporter

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


def profile_several(run: Run, options: ProfileOptions, reporter: Reporter) -> list[ProfileRecord]:
    """Measure a run on every device of the options and return their records in that order; see profile_run.

    A device that fails does not stop the others, whose figures are kept.

    Raises:
        UserError: naming every device that failed; Finding where all that failed are findings. A single device fails
            with its own error.
    """
    profiles = options.profiles()
    if len(profiles) == 1:
        return [profile_run(run, options.of(profiles[0]), reporter)]
    turns = {profile.host: threading.Lock() for profile in profiles}  # two on one machine would disturb each other
    failed: dict[str, RmtkdError] = {}

    def measured(profile: HardwareProfile) -> ProfileRecord | None:
        mine = Named(reporter, profile.name)
        with turns[profile.host]:
            try:
                return profile_run(run, options.of(profile), mine)
            except RmtkdError as error:
                failed[profile.name] = error
                mine.event("note", text=f"failed: {error.message}")
                return None

    with ThreadPoolExecutor(len(profiles)) as pool:
        found = list(pool.map(measured, profiles))
    if failed:
        raise summed_up(failed, [profile.name for profile in profiles if profile.name not in failed])
    return [record for record in found if record is not None]


class Named:
    """A reporter that says which device an event is of."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter, self.name = reporter, name

    def event(self, kind: str, **facts: Any) -> None:
        """Pass an event on, its text after the device's name."""
        text = f"{self.name}: {facts.pop('text', '')}"
        self.reporter.event(kind, text=text, device=self.name, **facts)


def summed_up(failed: dict[str, RmtkdError], measured: Sequence[str]) -> RmtkdError:
    """Return one error that combines those of several devices."""
    kind = Finding if all(isinstance(error, Finding) for error in failed.values()) else UserError
    kept = f"\nmeasured and kept: {', '.join(measured)}" if measured else ""
    message = "\n".join(f"{name}: {error.message}" for name, error in failed.items()) + kept
    hints = dict.fromkeys(f"{name}: {error.hint}" for name, error in failed.items() if error.hint)
    return kind(message, "\n     ".join(hints))
