"""Budgets of a device: every limit is judged, what was not measured is not kept, and the exit code says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmtkd_edge import devices
from rmtkd_edge.errors import Finding
from rmtkd_edge.config.hardware import Budgets
from rmtkd_edge.profile.budget import files_within, judge, rows
from rmtkd_edge.run.directory import Run


def result(label: str, ms: float, batch: int = 1, role: str = "candidate", **changes: Any) -> dict[str, Any]:
    found = {
        "label": label, "role": role, "workload": {"batch": batch, "seq": 8}, "latency": {"p50": ms},
        "model": {"disk_bytes": 2_000_000}, "memory": {"peak_rss_bytes": 30_000_000},
        "energy": {"j_per_inf_gross": None, "why": "no meter"},
    }  # fmt: skip
    return {**found, **changes}


DOCUMENT = {
    "profile": "board",
    "hardware": {"budgets": {"latency_ms": 10.0}},
    "results": [
        result("small int8", 8.0), result("small fp32", 12.0), result("small int8", 60.0, batch=8),
        result("original fp32", 50.0, role="baseline"),
    ],
}  # fmt: skip


def test_one_file_within_the_limits_is_enough_and_only_the_smallest_load_counts() -> None:
    verdicts = judge(DOCUMENT, Budgets(latency_ms=10))
    assert [(v.label, v.kept) for v in verdicts] == [("small int8", True), ("small fp32", False)]
    assert files_within(verdicts) == ["small int8"]


@pytest.mark.parametrize(
    ("budgets", "kept"),
    [
        (Budgets(disk_mb=2), 2), (Budgets(disk_mb=1.99), 0), (Budgets(memory_mb=30), 2), (Budgets(memory_mb=29), 0),
        (Budgets(latency_ms=10, disk_mb=1), 0), (Budgets(energy_mj=1e9), 0), (Budgets(), 0),
    ],
)  # fmt: skip
def test_every_limit_must_be_kept_and_what_was_not_measured_is_not(budgets: Budgets, kept: int) -> None:
    assert len(files_within(judge(DOCUMENT, budgets))) == kept


def test_energy_is_that_of_one_input_in_millijoules() -> None:
    document = {**DOCUMENT, "results": [result("a", 1.0, energy={"j_per_inf_gross": 0.004})]}
    (verdict,) = judge(document, Budgets(energy_mj=5))
    assert verdict.value == pytest.approx(4.0) and verdict.kept


def test_no_budget_is_no_verdict() -> None:
    assert judge(DOCUMENT, Budgets()) == []


def test_a_missed_budget_is_a_finding_with_its_table(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a", 'title = "x"\n[model]\nsource = "scratch"\n[task]\nname = "t"\ntext = ["s"]\n', 0)
    devices.refuse_missed_budgets(run.path, [DOCUMENT])
    tight = {**DOCUMENT, "hardware": {"budgets": {"latency_ms": 1.0, "energy_mj": 1.0}}}
    with pytest.raises(Finding) as caught:
        devices.refuse_missed_budgets(run.path, [DOCUMENT, tight])
    table = caught.value.table
    assert caught.value.exit_code == 1 and table == rows(judge(tight, Budgets(latency_ms=1, energy_mj=1)))
    assert {row[-1] for row in table[1:]} == {"missed", "cannot be judged"} and "no meter" in table[2]
    document = {**DOCUMENT, "profile": "local-cpu", "hardware": {"budgets": {}}}
    text = run.path_of("recipe.toml").read_text() + '[stop]\nprofile = "local-cpu"\ndisk_mb = 1.0\n'
    run.path_of("recipe.toml").write_text(text)
    with pytest.raises(Finding, match="local-cpu"):
        devices.refuse_missed_budgets(run.path, [document])
