"""Whether any exported file keeps the limits of a device: latency, disk, memory, energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmtkd_edge.config.hardware import Budgets

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


def judge(document: Mapping[str, Any], budgets: Budgets) -> list[Verdict]:
    """Return a verdict for every compressed file and every limit, under the smallest workload that was measured.

    `document` is a profile's JSON; latency is the median, energy gross and of one input, memory the peak above a bare
    import. Where the profile has a [limits] of memory, what a process takes with the import counts against it.
    """
    limits = {name: value for name, value in budgets.model_dump().items() if value is not None}
    mine = [result for result in document["results"] if result["role"] == "candidate"]
    sizes = {(r["workload"]["batch"], r["workload"].get("seq") or 0) for r in mine}
    smallest = [r for r in mine if (r["workload"]["batch"], r["workload"].get("seq") or 0) == min(sizes)]
    return [verdict for result in smallest for verdict in _of_file(result, limits)]


def _of_file(result: Mapping[str, Any], limits: Mapping[str, float]) -> list[Verdict]:
    verdicts = [Verdict(result["label"], name, float(limit), *_value(result, name)) for name, limit in limits.items()]
    held = result["memory"].get("limit")
    if held:
        needs = None if held["needs_bytes"] is None else held["needs_bytes"] / MEGABYTE
        limit, failed = held["limit_bytes"] / MEGABYTE, held["fits"] is False
        verdicts.append(Verdict(result["label"], "limits.memory_mb", limit, needs, held["why"], failed))
    return verdicts


def _value(result: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    if name == "latency_ms":
        p50 = result["latency"]["p50"]
        return (None, result["latency"].get("p50_why") or "not measured") if p50 is None else (float(p50), "")
    if name == "disk_mb":
        return result["model"]["disk_bytes"] / MEGABYTE, ""
    if name == "memory_mb":
        peak = result["memory"]["peak_rss_bytes"]
        return (None, result["memory"].get("why") or "not measured") if peak is None else (peak / MEGABYTE, "")
    joules = result["energy"]["j_per_inf_gross"]
    return (None, result["energy"].get("why") or "not measured") if joules is None else (1e3 * joules, "")


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
