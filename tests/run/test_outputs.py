"""Outputs on the reported rows: the record's metrics come from them, for every task; damage is told, absence is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tasks.tasks_sample import recipe_of
from tasks.test_task_protocol import SKETCHES
from tasks.test_task_protocol import run as outputs_and_targets

from rmtkd_edge.config.task import Task as Settings
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run import layout, outputs
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.outputs import Outputs, read_outputs, write_outputs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "", 0)


def same(a: Outputs, b: Outputs) -> bool:
    return a.series.keys() == b.series.keys() and all(
        np.array_equal(np.concatenate(a.series[name]), np.concatenate(b.series[name])) for name in a.series
    )


@pytest.mark.parametrize(("task", "model"), SKETCHES, ids=[task.name for task, _ in SKETCHES])
def test_every_task_gives_the_same_metrics_from_the_file(task: Any, model: Any, run: Run) -> None:
    dataset = task.load(recipe_of(Settings(name="t", text=["text"])), None)
    found, targets = outputs_and_targets(task, model, dataset)
    assert write_outputs(run, Outputs(targets, found, {"": found, "0.5": found})) == ""
    kept = read_outputs(Run.open(run.path))
    assert kept is not None and same(kept, Outputs(targets, found, {"": found, "0.5": found}))
    assert task.metrics(kept.students["0.5"], kept.targets) == task.metrics(found, targets)
    assert all(batch.dtype == np.float32 for batch in kept.teacher)


def test_batches_of_other_lengths_stay_batches(run: Run) -> None:
    targets = [np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)]
    answers = [np.ones((2, 3, 5), np.float32), np.ones((3, 4, 5), np.float32)]
    write_outputs(run, Outputs(targets, answers, {"": answers}))
    kept = read_outputs(run)
    assert kept is not None and [batch.shape for batch in kept.students[""]] == [(2, 3, 5), (3, 4, 5)]
    assert all(np.array_equal(a, b) for a, b in zip(kept.targets, targets, strict=True))


def test_what_is_too_large_or_no_number_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [np.ones((4, 2), np.float32)]
    assert "no numbers" in write_outputs(run, Outputs([np.array(["a", "b", "a", "b"])], answers, {"": answers}))
    monkeypatch.setattr(outputs, "LARGEST", 64)
    assert "at most" in write_outputs(run, Outputs([np.arange(4)], answers, {"": answers}))
    assert not run.has(layout.OUTPUTS) and read_outputs(run) is None


ROWS = {"targets/00000": np.arange(3), "teacher/00000": np.ones((3, 2)), "student/00000": np.ones((3, 2))}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student/00000": np.ones((2, 2))}, "student has 2 rows"),
        ({"student-0.5/00000": np.ones((4, 2))}, "student-0.5 has 4 rows"),
        ({"other": np.ones(3)}, "holds other"),
        ({"teacher/00000": np.float32(1)}, "holds teacher"),
    ],
)
def test_rows_that_do_not_fit_are_refused(changes: dict[str, Any], says: str, run: Run) -> None:
    run.write_bytes(layout.OUTPUTS, save({name: np.asarray(value) for name, value in (ROWS | changes).items()}))
    with pytest.raises(RunDirError, match=says):
        read_outputs(run)


def test_a_changed_byte_is_told(run: Run) -> None:
    run.write_bytes(layout.OUTPUTS, save(ROWS))
    assert read_outputs(run) is not None
    path = run.path_of(layout.OUTPUTS)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunDirError, match="changed or cut off"):
        read_outputs(run)
