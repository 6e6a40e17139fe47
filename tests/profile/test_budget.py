"""Budgets of a device: every limit is judged, what was not measured is not kept, and the exit code says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from profile_run_sample import device_record, exported_run, measurement

from rmtkd_edge.api.profile import recipe_budget
from rmtkd_edge.config.hardware import Budgets
from rmtkd_edge.profile.budget import RecipeBudget, files_within, judge, missed_budgets, rows

RESULTS = (
    measurement("small int8", 8.0),
    measurement("small fp32", 12.0),
    measurement("small int8", 60.0, workload={"batch": 8}),
    measurement("original fp32", 50.0),
)
RECORD = device_record(*RESULTS, hardware={"budgets": {"latency_ms": 10.0}})


def test_one_file_within_the_limits_is_enough_and_only_the_smallest_load_counts() -> None:
    verdicts = judge(RECORD, Budgets(latency_ms=10))
    assert [(v.label, v.kept) for v in verdicts] == [("small int8", True), ("small fp32", False)]
    assert files_within(verdicts) == ["small int8"]


@pytest.mark.parametrize(
    ("budgets", "kept"),
    [
        (Budgets(disk_mb=2), 2),
        (Budgets(disk_mb=1.99), 0),
        (Budgets(memory_mb=30), 2),
        (Budgets(memory_mb=29), 0),
        (Budgets(latency_ms=10, disk_mb=1), 0),
        (Budgets(energy_mj=1e9), 0),
        (Budgets(), 0),
    ],
)
def test_every_limit_must_be_kept_and_what_was_not_measured_is_not(budgets: Budgets, kept: int) -> None:
    assert len(files_within(judge(RECORD, budgets))) == kept


def test_energy_is_that_of_one_input_in_millijoules() -> None:
    energy = {"j_per_inf_gross": 0.004, "kind": "modelled"}
    (verdict,) = judge(device_record(measurement("a", 1.0, energy=energy)), Budgets(energy_mj=5))
    assert verdict.value == pytest.approx(4.0) and verdict.kept


def test_no_budget_is_no_verdict() -> None:
    assert judge(RECORD, Budgets()) == []


def test_a_missed_budget_is_a_finding_with_its_table() -> None:
    run = Path("runs/a")
    assert missed_budgets(run, [RECORD], None) is None
    tight = device_record(*RESULTS, hardware={"budgets": {"latency_ms": 1.0, "energy_mj": 1.0}})
    found = missed_budgets(run, [RECORD, tight], None)
    assert found is not None and found.exit_code == 1 and "runs/a" in found.message
    assert found.table == rows(judge(tight, Budgets(latency_ms=1, energy_mj=1)))
    assert {row[-1] for row in found.table[1:]} == {"missed", "cannot be judged"} and "no meter" in found.table[2]


@pytest.mark.parametrize(("device", "missed"), [("board", True), ("another", False)])
def test_the_recipes_limits_hold_for_its_own_device(device: str, missed: bool) -> None:
    found = missed_budgets(Path("a"), [device_record(*RESULTS)], RecipeBudget(device, disk_mb=1.0))
    assert (found is not None) == missed


def test_what_a_recipe_demands_is_read_from_the_run(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "a")
    assert recipe_budget(run) is None
    stop = '[stop]\nprofile = "local-cpu"\ndisk_mb = 1.0\n'
    run.write_text("recipe.toml", run.read_text("recipe.toml") + stop)
    assert recipe_budget(run) == RecipeBudget("local-cpu", None, 1.0)
