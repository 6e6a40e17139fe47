"""`rmtkd-edge profile --tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.cli.output import progress, say, show, show_json
from rmtkd_edge.cli.tables import figure, table_of, workload_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from rmtkd_edge.profile.options import ProfileOptions
    from rmtkd_edge.run.records.tuning import TrialRecord, TuningRecord


def tune(options: ProfileOptions, out: Path | None, as_json: bool) -> None:
    """Try session settings, write the best, and print all of them."""
    from rmtkd_edge.api.tune import tune_run
    from rmtkd_edge.run.records.base import to_json

    with progress(as_json) as reporter:
        found = tune_run(options, out, reporter)
    if as_json:
        show_json({"path": str(found.path), **to_json(found.record)})
        return
    show(trials_table(found.record))
    say(
        f"{found.path}: {found.record.chosen}",
        *found.record.notes,
        f"next: rmtkd-edge profile {options.run} --on {found.path}",
    )


def trials_table(record: TuningRecord) -> Table:
    """Return a table of all trials, in the order of the two measurements."""
    header = ["measurement", "settings", "p50 ms", "of the profile's", "95 % interval", "verdict"]
    title = f"{record.chosen.model} on {record.profile}, {workload_text(record.chosen.workload)}"
    return table_of(header, [_row(trial) for trial in record.trials], title)


def _row(trial: TrialRecord) -> list[str]:
    interval = "-" if trial.ci95 is None else " to ".join(f"{end:.3f}" for end in trial.ci95)
    measurement = "second" if trial.confirms else "first"
    return [measurement, trial.name, f"{trial.p50_ms:.3f}", figure(trial.ratio, ".3f"), interval, trial.verdict]
