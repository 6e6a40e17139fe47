"""Several devices measured in one go: different machines at the same time, profiles of one machine in turn."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rmtkd_edge import workflow
from rmtkd_edge.errors import Finding, RmtkdError, UserError
from rmtkd_edge.hardware import load_profile
from rmtkd_edge.progress import Reporter


def run_profiles(
    path: Path,
    names: Sequence[str],
    reporter: Reporter,
    *,
    force: bool = False,
    host: str | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Measure a run on every device and return their JSON in the order of `names`; see workflow.run_profile.

    A device that fails does not stop the others, whose figures are kept. Raises UserError, or Finding where all that
    failed are findings, naming each.
    """
    run = workflow.refuse_profile(path, names, force, host, options.get("threads"), options.get("python"))
    hosts = {name: host or load_profile(name).host for name in names}
    turns = {machine: threading.Lock() for machine in hosts.values()}  # two on one machine would disturb each other
    failed: dict[str, RmtkdError] = {}

    def measure(name: str) -> dict[str, Any] | None:
        mine = reporter if len(names) == 1 else Named(reporter, load_profile(name).name)
        with turns[hosts[name]]:
            try:
                return workflow.run_profile(path, name, mine, run=run, force=force, host=host, **options)
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
