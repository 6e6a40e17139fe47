"""`collect`: what a bundle measured, checked and filed in its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.api.card import refresh_cards
from rmtkd_edge.api.profile import ProfileResult, recipe_budget
from rmtkd_edge.profile.budget import missed_budgets
from rmtkd_edge.profile.bundle import collect
from rmtkd_edge.run.lock import open_to_write


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """The run that made the bundle, and the results.json that the device wrote."""

    run: Path
    results: Path
    force: bool = False


def collect_run(options: CollectOptions) -> ProfileResult:
    """Check what a bundle measured (hashes, plan, processor) and file it in the run.

    Raises:
        UserError: the file is unreadable, unfinished, altered, of another bundle or of another machine.
        RunDirError: the device was measured already and `force` is not set.
    """
    with open_to_write(options.run) as run:
        budget = recipe_budget(run)
        record = collect(run, options.results, options.force)
        refresh_cards(run)
    return ProfileResult((record,), missed_budgets(run.path, [record], budget))
