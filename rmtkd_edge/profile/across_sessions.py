"""Two measurements next to each other: `rmtkd-edge compare a.json b.json`.

They were made in two sessions, so nothing pairs their rounds: the interval is that of independent rounds, and what the
machine did between the sessions is in it. Models and machines are never mixed: whatever differs is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.errors import UserError
from rmtkd_edge.profile.comparison import excludes_equality
from rmtkd_edge.profile.foreign import check_measurement
from rmtkd_edge.profile.measuring.basics import RESULTS_SCHEMA, workload_key
from rmtkd_edge.profile.measuring.plan_schema import SESSION_DEFAULTS
from rmtkd_edge.profile.ratios import ratio_of_sessions
from rmtkd_edge.run.records.base import read_json_file
from rmtkd_edge.run.records.profile import ProfileRecord

# What must be the same for a ratio to be of the models, or of the change that was made, alone.
CONDITIONS = (
    "cpu_model",
    "machine",
    "providers_actual",
    "onnxruntime",
    "threads",
    "spinning",
    "governor",
    "limits",
    "tf32",
    *SESSION_DEFAULTS,
)
HINT = "give profile/NAME.json of a run, or a results.json"


@dataclass(frozen=True)
class SessionComparison:
    """One model under one workload in both files: b / a, below 1 where b takes less; None where a figure is not there.

    differences: what else is not the same between the two. clear: the interval of the latency leaves out 1.
    """

    label: str
    workload: str
    latency_ms: tuple[float, float]
    latency_ratio: float
    latency_ci95: tuple[float, float] | None
    memory_ratio: float | None
    disk_ratio: float | None
    energy_ratio: float | None
    same_file: bool
    verdicts: tuple[str, str]
    differences: tuple[str, ...]

    @property
    def clear(self) -> bool:
        """Whether the interval of the latency excludes equality."""
        return excludes_equality(self.latency_ci95)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return {**asdict(self), "clear": self.clear}


def read_measurement(file: Path) -> list[dict[str, Any]]:
    """Return the results of a profile's JSON or of a runner's results.json; raise UserError naming the file."""
    document = read_json_file(file, HINT)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in (ProfileRecord.SCHEMA, RESULTS_SCHEMA):
        known = f"{ProfileRecord.SCHEMA} and {RESULTS_SCHEMA}"
        raise UserError(f"{file} holds no finished measurement: its schema is {schema}, {known} are read", HINT)
    if not isinstance(document.get("results"), list) or not document["results"]:
        raise UserError(f"{file} holds no finished measurement", HINT)
    check_measurement(document, file, HINT)
    if any(result["quality"]["verdict"] == "emulated" for result in document["results"]):
        raise UserError(
            f"{file} was measured under emulation: its times are compared with nothing", "give another file"
        )
    return list(document["results"])


def compare_files(a: Path, b: Path, seed: int = 0) -> list[SessionComparison]:
    """Return a comparison for every model and workload that both files have; raise UserError where they share none."""
    sides = [{_key(r): r for r in read_measurement(file)} for file in (a, b)]
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        listed = ["; ".join(f"{label} {workload}" for label, workload in side) for side in sides]
        raise UserError(
            f"no model and workload is in both files: {a} has {listed[0]}; {b} has {listed[1]}",
            "measure both with the same --batch-size and --seq-len",
        )
    try:
        return [compare_results(sides[0][key], sides[1][key], seed) for key in shared]
    except ValueError as err:
        raise UserError(f"{a} or {b}: {err}", "measure again") from err
    except (KeyError, TypeError, IndexError) as err:
        raise UserError(f"{a} or {b} lacks {err} in a result", "measure again with this version") from err


def _key(result: Mapping[str, Any]) -> tuple[str, str]:
    return str(result.get("label")), workload_key(dict(result.get("workload") or {"batch": 0}))


def compare_results(a: Mapping[str, Any], b: Mapping[str, Any], seed: int = 0) -> SessionComparison:
    """Return the comparison of two results of the same label and workload."""
    ratio, ends = ratio_of_sessions(rounds_of(b), rounds_of(a), seed)
    return SessionComparison(
        label=str(a["label"]),
        workload=workload_key(dict(a["workload"])),
        latency_ms=(float(a["latency"]["p50"]), float(b["latency"]["p50"])),
        latency_ratio=ratio,
        latency_ci95=ends,
        memory_ratio=_ratio(a["memory"].get("peak_rss_bytes"), b["memory"].get("peak_rss_bytes")),
        disk_ratio=_ratio(a["model"].get("disk_bytes"), b["model"].get("disk_bytes")),
        energy_ratio=_energy_ratio(a["energy"], b["energy"]),
        same_file=a["model"]["sha256"] == b["model"]["sha256"],
        verdicts=(str(a["quality"]["verdict"]), str(b["quality"]["verdict"])),
        differences=tuple(_differences(a["env"], b["env"])),
    )


def rounds_of(result: Mapping[str, Any]) -> list[list[float]]:
    """Return the latencies of a result in ms, round by round, from either form that they are kept in."""
    latency = result["latency"]
    if "rounds_ns" in latency:
        return [[ns / 1e6 for ns in block] for block in latency["rounds_ns"]]
    ends = np.cumsum(latency["round_sizes"])[:-1]
    return [part.tolist() for part in np.split(np.asarray(latency["values"], float), ends)]


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or a <= 0 else b / a


def _energy_ratio(a: Mapping[str, Any], b: Mapping[str, Any]) -> float | None:
    """Joules of two meters are never divided."""
    if a.get("meter") != b.get("meter") or a.get("kind") != b.get("kind"):
        return None
    return _ratio(a.get("j_per_inf_gross"), b.get("j_per_inf_gross"))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    a, b = {**SESSION_DEFAULTS, **a}, {**SESSION_DEFAULTS, **b}  # earlier versions recorded none
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in CONDITIONS if a.get(key) != b.get(key)]
