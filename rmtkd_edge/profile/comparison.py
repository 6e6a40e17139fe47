"""Is one model faster than another? Ratios with intervals, of models that ran in turn in one session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmtkd_edge.profile.ratios import LEAST_ROUNDS, Interval, Rounds, ratio_of_medians
from rmtkd_edge.run.layout import model_of
from rmtkd_edge.run.records.profile import ComparisonRecord, WorkloadRecord

AGAINST_FP32 = ("int8", "fp16")


def excludes_equality(interval: Interval | None) -> bool:
    """Return whether an interval of a ratio leaves out 1; False without one."""
    return interval is not None and not interval[0] <= 1.0 <= interval[1]


def compare(
    labels: tuple[str, str], workload: Mapping[str, Any], values: tuple[Rounds, Rounds], seed: int
) -> ComparisonRecord:
    """Return candidate / baseline of the latency under one workload.

    Args:
        labels: of the candidate and of the baseline.
        values: latencies by round of the candidate and of the baseline.
    """
    ratio, ends = ratio_of_medians(*values, seed)
    return ComparisonRecord(
        candidate=labels[0],
        baseline=labels[1],
        metric="latency_ms",
        workload=WorkloadRecord(workload["batch"], workload.get("seq")),
        ratio=ratio,
        ci95=ends,
        n=sum(len(r) for side in values for r in side),
        rounds=len(values[0]),
        clear=excludes_equality(ends),
        why=None if ends else f"an interval needs {LEAST_ROUNDS} rounds, there are {len(values[0])}",
    )


def compare_all(results: Sequence[Mapping[str, Any]], seed: int) -> Iterator[ComparisonRecord]:
    """Yield every candidate against every baseline, and int8 and fp16 against fp32 of the same model, by workload."""
    for a in results:
        for b in results:
            against_original = (a["role"], b["role"]) == ("candidate", "baseline")
            lower = a["model"]["precision"] in AGAINST_FP32 and b["model"]["precision"] == "fp32"
            same_model = a["role"] == b["role"] and model_of(a["label"]) == model_of(b["label"])
            if a["workload"] == b["workload"] and (against_original or (lower and same_model)):
                values = (a["latency"]["rounds_ns"], b["latency"]["rounds_ns"])
                yield compare((a["label"], b["label"]), a["workload"], values, seed)
