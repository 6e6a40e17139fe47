"""The accuracy table: what the finished cells of a folder score, one row a study and method."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grid.order import result_of
from grid.settings import VARIANTS
from grid.worker import CELL, NOT_ON_RECORD
from rmtkd_edge.errors import Finding
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import MANIFEST, RESULT, TEACHER, WEIGHTS
from rmtkd_edge.run.records.compress import CompressRecord

Row = tuple[str, str, str, float | None]  # budget, study, method or variant, target or quantile


@dataclass(frozen=True)
class Figures:
    """What a run scores on the split that is reported."""

    split: str
    rows: int
    metric: str
    teacher: float
    student: float

    @property
    def points(self) -> float:
        """Return student minus teacher, in points."""
        return 100 * (self.student - self.teacher)


def figures_of(result: CompressRecord) -> Figures:
    """Return the reported figures of a run: of test, or of validation where there is no test split."""
    teacher = result.teacher.test or result.teacher.validation
    student = result.student.test or result.student.validation
    return Figures(student.split, student.rows, student.primary, teacher.value, student.value)


def table(out: Path) -> dict[str, Any]:
    """Return the figures of all finished cells, one row a budget, study, method and target.

    Raises:
        Finding: the cells of a study do not start from the same teacher, and cannot be compared.
    """
    found: dict[Row, list[CompressRecord]] = {}
    teachers: dict[str, set[str]] = {}
    machines: dict[str, None] = {}
    for file in sorted(out.glob(f"*/*/*/seed-*/{CELL}")):
        if (file.parent / RESULT).is_file() and (file.parent / MANIFEST).is_file():
            facts = json.loads(file.read_text())
            at = facts["quantile"] if facts["target"] is None else facts["target"]
            row = (facts["budget"], facts["study"], facts["variant"] or facts["method"], at)
            found.setdefault(row, []).append(result_of(file.parent))
            machines.setdefault(facts.get("machine", NOT_ON_RECORD))
            weights = Run.open(file.parent).manifest["files"].get(f"{TEACHER}/{WEIGHTS}", "")
            teachers.setdefault(facts["study"], set()).add(weights)
    for study, each in teachers.items():
        if len(each) > 1:
            raise Finding(f"{out}: {study}: its cells start from {len(each)} teachers", "give each its own --out")
    rows = [row_of(row, results) for row, results in found.items()]
    return {"machines": list(machines), "rows": rows}


def row_of(row: Row, results: Sequence[CompressRecord]) -> dict[str, Any]:
    """Return the figures of one row over its seeds; `split_rows` are those of the split that is reported."""
    budget, study, name, at = row
    each = [figures_of(result) for result in results]
    return {
        "budget": budget,
        "study": study,
        "variant": name,
        "at": at,
        "what": VARIANTS[name].what if name in VARIANTS else results[0].title,
        "seeds": [result.seed for result in results],
        "metric": each[0].metric,
        "split": each[0].split,
        "split_rows": each[0].rows,
        "validation_rows": results[0].task.validation_rows,
        "fewer_parameters_percent": round(100 * statistics.mean(result.reduction for result in results), 1),
        "teacher_percent": round(100 * statistics.mean(f.teacher for f in each), 2),
        "points_mean": round(statistics.mean(f.points for f in each), 2),
        "points": [round(f.points, 2) for f in each],
        "steps": [sum(cycle.steps for cycle in result.cycles) for result in results],
        "seconds": [result.seconds for result in results],
    }


def markdown(figures: Mapping[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| budget | study | variant | target or quantile | parameters fewer | reported | teacher % "
        "| points against its teacher: mean (each seed) | steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        each = ", ".join(f"{p:+.2f}" for p in row["points"])
        cells = [
            row["budget"],
            row["study"],
            row["variant"],
            row["at"],
            f"{row['fewer_parameters_percent']} %",
            f"{row['metric']}, {row['split_rows']} {row['split']} rows",
            row["teacher_percent"],
            f"{row['points_mean']:+.2f} ({each})",
            row["steps"][0],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", f"Trained on: {'. '.join(figures['machines'])}."])
