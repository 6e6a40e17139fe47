"""Whether any exported file keeps the limits of a device: latency, disk, memory, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.config.hardware import Budgets
from rmtkd_edge.errors import Finding
from rmtkd_edge.run.records.profile import MeasurementRecord, ProfileRecord

MEGABYTE = 1_000_000
UNITS = {"latency_ms": "ms", "disk_mb": "MB", "memory_mb": "MB", "energy_mj": "mJ", "limits.memory_mb": "MB"}


@dataclass(frozen=True)
class Verdict:
    """One limit and one file; `value` is None where nothing measured it, and `why` then says so.

    failed: held to the limit the file did not run, whatever it takes without; `why` says how it ended.
    """

    label: str
    budget: str
    limit: float
    value: float | None
    why: str = ""
    failed: bool = False

    @property
    def kept(self) -> bool:
        """Return whether the limit is known to be kept."""
        return not self.failed and self.value is not None and self.value <= self.limit


@dataclass(frozen=True)
class RecipeBudget:
    """What a recipe's own stop section demands of one device, named by its profile, in place of the profile's."""

    device: str
    latency_ms: float | None = None
    disk_mb: float | None = None
    energy_mj: float | None = None

    def over(self, budgets: Budgets) -> Budgets:
        """Return a profile's budgets with these in place of its own."""
        mine = {"latency_ms": self.latency_ms, "disk_mb": self.disk_mb, "energy_mj": self.energy_mj}
        return budgets.model_copy(update={key: value for key, value in mine.items() if value is not None})


def missed_budgets(where: Path, records: Sequence[ProfileRecord], recipe: RecipeBudget | None) -> Finding | None:
    """Return a finding, with a table, where no file keeps the limits of a device, or of the recipe for it.

    Args:
        where: the run, whose records stay whatever is found.
        records: the devices that were measured.
        recipe: what the recipe demands of one device.
    """
    table: list[list[str]] = []
    missed = []
    for record in records:
        budgets = Budgets.model_validate(record.hardware["budgets"])
        if recipe is not None and recipe.device == record.profile:
            budgets = recipe.over(budgets)
        verdicts = judge(record, budgets)
        if verdicts and not files_within(verdicts):
            missed.append(record.profile)
            table += rows(verdicts) if not table else rows(verdicts)[1:]
    if not missed:
        return None
    return Finding(
        f"no file of {where} keeps the budgets of {', '.join(missed)}; what was measured is kept",
        f"compress further: rmtkd-edge compress RECIPE --budget {missed[0]}",
        table,
    )


def judge(record: ProfileRecord, budgets: Budgets) -> list[Verdict]:
    """Return a verdict for every compressed file and every limit, under the smallest workload that was measured.

    Latency is the median, energy gross and of one input, memory the peak above a bare import. Where the profile has a
    [limits] of memory, what a process takes with the import counts against it.
    """
    limits = {name: float(value) for name, value in budgets.model_dump().items() if value is not None}
    mine = [result for result in record.results if result.role == "candidate"]
    smallest = min((_size(result) for result in mine), default=None)
    return [verdict for result in mine if _size(result) == smallest for verdict in _of_file(result, limits)]


def _size(result: MeasurementRecord) -> tuple[int, int]:
    return result.workload.batch, result.workload.seq or 0


def _of_file(result: MeasurementRecord, limits: Mapping[str, float]) -> list[Verdict]:
    verdicts = [Verdict(result.label, name, limit, *_value(result, name)) for name, limit in limits.items()]
    held = result.memory.limit
    if held is not None:
        needs = None if held.needs_bytes is None else held.needs_bytes / MEGABYTE
        limit, why = held.limit_bytes / MEGABYTE, held.why or ""
        verdicts.append(Verdict(result.label, "limits.memory_mb", limit, needs, why, held.fits is False))
    return verdicts


def _value(result: MeasurementRecord, name: str) -> tuple[float | None, str]:
    joules = result.energy.j_per_inf_gross
    value, scale, why = {
        "latency_ms": (result.latency.p50, 1.0, result.latency.p50_why),
        "disk_mb": (result.model.disk_bytes, 1 / MEGABYTE, None),
        "memory_mb": (result.memory.peak_rss_bytes, 1 / MEGABYTE, result.memory.why),
        "energy_mj": (joules, 1e3, result.energy.why or result.energy.j_per_inf_gross_why),
    }[name]
    return (None, why or "not measured") if value is None else (value * scale, "")


def files_within(verdicts: list[Verdict]) -> list[str]:
    """Return the labels of the files that keep every limit."""
    labels = dict.fromkeys(v.label for v in verdicts)
    return [label for label in labels if all(v.kept for v in verdicts if v.label == label)]


def rows(verdicts: list[Verdict]) -> list[list[str]]:
    """Return the verdicts as rows of a table, the header first."""
    table = [["file", "budget", "limit", "measured", "verdict"]]
    for v in verdicts:
        unit = UNITS[v.budget]
        within = v.value is None or v.value <= v.limit
        value = v.why if within and not v.kept else f"{v.value:.3g} {unit}"
        verdict = "kept" if v.kept else "missed" if v.failed or v.value is not None else "cannot be judged"
        table.append([v.label, v.budget, f"{v.limit:g} {unit}", value, verdict])
    return table
