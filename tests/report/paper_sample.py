"""Finished runs with invented outputs, for the tests of the paper's table and figures."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from report.report_sample import RECIPE, compress_result, cycles, quoted
from torch import Tensor

from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.outputs import Outputs, write_outputs
from rmtkd_edge.run.records.compress import StudentRecord
from rmtkd_edge.run.records.cycle import CycleRecord
from rmtkd_edge.run.records.model import ModelRecord
from rmtkd_edge.run.records.scores import Scores

ROWS = 400
TARGETS = np.random.default_rng(0).integers(0, 2, ROWS)
TEACHER_RIGHT = np.arange(ROWS) % 10 != 0


def logits(right: np.ndarray) -> list[np.ndarray]:
    """Outputs (n, 2) whose larger one is the target where `right` says so."""
    return [np.eye(2, dtype=np.float32)[np.where(right, TARGETS, 1 - TARGETS)]]


def right_but(*wrong: range) -> np.ndarray:
    """Which rows are right: all but these."""
    found = np.ones(ROWS, bool)
    for rows in wrong:
        found[list(rows)] = False
    return found


def spec(width: int) -> EncoderSpec:
    layers = (LayerSpec(2, width // 2, width // 2, 2 * width, 1.0),)
    return EncoderSpec("bert", 100, 16, 2, width, layers, width, ("no", "yes"))


def scored(right: np.ndarray) -> Scores:
    return Scores("test", ROWS, "accuracy", {"accuracy": float(right.mean())}, (0.0, 1.0))


@cache
def _cycles() -> list[tuple[CycleRecord, dict[str, Tensor]]]:
    return cycles(32)


def paper_run(
    path: Path,
    method: str = "rmt-kd",
    seed: int = 0,
    right: np.ndarray = TEACHER_RIGHT,
    *,
    teacher: bytes = b"weights",
    rows: str | None = "a" * 64,
    target: float = 0.8,
    keys: dict[str, Any] | None = None,
    task: str = "sst2",
    keep: bool = True,
    reduction: float | None = None,
    cut_at: float | None = None,
) -> Path:
    """Write a finished run and return its path.

    Args:
        right: rows that the student has right.
        keys: of the recipe, as `section.name`.
        cut_at: quantile of its one cycle, which is accepted; the sample's cycles when left out.
    """
    data = tomllib.loads(RECIPE.format(title=quoted("a run")))
    data["stop"]["target_reduction"] = target
    data.setdefault("compress", {})["method"] = method
    for key, value in (keys or {}).items():
        section, name = key.split(".")
        data.setdefault(section, {})[name] = value
    data["seed"] = seed
    run = Run.create(path, tomli_w.dumps(parse_recipe(data, "test").model_dump(exclude_none=True)), seed)
    parts = _cycles()
    if cut_at is not None:
        parts = [(replace(parts[0][0], quantile=cut_at, accepted=True), parts[0][1])]
    for cycle, tensors in parts:
        run.write_record(layout.cycle_record(cycle.index), cycle)
        run.write_tensors(layout.cycle_spectra(cycle.index), tensors)
    whole = compress_result([cycle for cycle, _ in parts], method=method)
    whole = replace(
        whole,
        seed=seed,
        task=replace(whole.task, name=task, test_rows=ROWS),
        teacher=replace(whole.teacher, test=scored(TEACHER_RIGHT)),
        student=StudentRecord(whole.student.parameters, whole.student.validation, scored(right)),
        reduction=whole.reduction if reduction is None else reduction,
    )
    for folder, width in ((layout.TEACHER, 32), (layout.BEST, 8)):
        run.write_record(f"{folder}/{layout.SHAPE}", ModelRecord(spec(width).to_dict(), None))
    run.write_bytes(f"{layout.TEACHER}/{layout.WEIGHTS}", teacher)
    run.write_record(layout.TEACHER_RECORD, whole.teacher)
    if keep:
        write_outputs(run, Outputs([TARGETS], logits(TEACHER_RIGHT), {"": logits(right)}))
    run.write_record(layout.RESULT, whole)
    run.mark("compress", "done", **({} if rows is None else {"rows": {"test": rows}}))
    return path
