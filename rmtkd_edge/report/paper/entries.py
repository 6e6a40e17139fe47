"""A finished run as entries, one a student: its settings, figures, and outputs on the reported rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RmtkdError, RunDirError
from rmtkd_edge.families.base import spec_from_dict
from rmtkd_edge.methods.base import find_method
from rmtkd_edge.report.paper.find import Skipped
from rmtkd_edge.report.records import reported
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.outputs import Batches, read_outputs
from rmtkd_edge.run.records.compress import CompressRecord, FamilyMember
from rmtkd_edge.run.records.cycle import CycleRecord
from rmtkd_edge.run.records.model import ModelRecord
from rmtkd_edge.run.records.scores import Scores

# What is the same by hash within a group, or has no part in a student's outputs.
NO_SETTING = frozenset(
    {"title", "seed", "task.split_seed", "compress.method", "task.name", "task.hub", "task.hub_config"}
)
NO_SECTION = ("model.", "export.", "train.")
LIMITS = ("task.train_limit", "task.validation_limit", "task.test_limit")
FILES = ("task.unlabelled", "task.pairs")  # in whatever folder they are
TRAIN_ROWS = "rows of train"
PARTS = {"analyse": "search", "warm_start": "closed form", "fine_tune": "training"}


@dataclass(frozen=True)
class Entry:
    """One student of one finished run.

    Attributes:
        run: the run's path, as it was found.
        asked: share of the parameters that was to go; None where the recipe asks for none.
        settings: of the recipe by key, without what names data and models; values as JSON.
        teacher_sha256: of the teacher's weights.
        rows_sha256: of the reported rows, empty where the run does not record it.
        teacher_body, student_body: parameters without word table and classifier, None where the family says nothing.
        seconds: of this student's cycles, by step.
        outputs: on the reported rows, None where `why` says why.
    """

    run: str
    method: str
    seed: int
    asked: float | None
    settings: Mapping[str, str]
    record: CompressRecord
    member: FamilyMember
    cycles: tuple[CycleRecord, ...]
    teacher_sha256: str
    rows_sha256: str
    teacher_body: int | None
    student_body: int | None
    seconds: Mapping[str, float]
    outputs: Batches | None = field(repr=False)
    targets: Batches = field(repr=False, default=())
    why: str = ""

    @property
    def teacher(self) -> Scores:
        """The teacher's reported scores."""
        return reported(self.record.teacher)

    @property
    def student(self) -> Scores:
        """The student's reported scores."""
        return reported(self.member.student)

    @property
    def change(self) -> float:
        """Student minus teacher, of the primary metric on the reported rows."""
        return self.student.value - self.teacher.value

    @property
    def steps(self) -> int:
        """Optimiser steps of all its cycles, those that were rolled back among them."""
        return sum(cycle.steps for cycle in self.cycles)

    @property
    def quantile(self) -> float:
        """The quantile that the recipe names."""
        return float(self.settings["analyse.quantile"])

    @property
    def rule(self) -> str:
        """The edge rule."""
        return str(json.loads(self.settings["analyse.rule"]))


def read_entries(path: Path) -> list[Entry] | Skipped:
    """Return the students of a run, the largest first, or why it is skipped."""
    try:
        run = Run.open(path)
        if not run.has(layout.RESULT):
            where = shlex.quote(str(path))
            again = f"rmtkd-edge compress {where}/{layout.RECIPE} --out {where}"
            return Skipped(str(path), "compress has not finished", again)
        return list(_entries(run, str(path)))
    except RmtkdError as err:
        return Skipped(str(path), err.message, err.hint)
    except (KeyError, TypeError, ValueError) as err:
        return Skipped(str(path), f"the shape of a model cannot be read: {err}", "restore it, or compress again")


def _entries(run: Run, name: str) -> Iterator[Entry]:
    record, recipe = run.read_record(CompressRecord, layout.RESULT), layout.read_recipe(run)
    outputs, why = _outputs(run)
    digests = run.stage("compress").get("rows")
    split = reported(record.teacher).split
    rows = str(digests.get(split, "")) if isinstance(digests, Mapping) else ""
    targets = recipe.stop.targets
    for member in record.family:
        asked = float(member.name) if member.name else targets[-1]
        way = [target for target in targets if target is not None and asked is not None and target <= asked]
        cycles = _cycles_of(record, None if asked is None or len(targets) == 1 else asked)
        yield Entry(
            run=name,
            method=record.method,
            seed=record.seed,
            asked=asked,
            settings=_settings(recipe, record, way),
            record=record,
            member=member,
            cycles=cycles,
            teacher_sha256=str(run.manifest["files"].get(f"{layout.TEACHER}/{layout.WEIGHTS}", "")),
            rows_sha256=rows,
            teacher_body=_body(run, layout.TEACHER),
            student_body=_body(run, layout.student(member.name).checkpoint),
            seconds={part: sum(c.seconds.get(part, 0.0) for c in cycles) for part in PARTS},
            outputs=outputs.students.get(member.name) if outputs else None,
            targets=outputs.targets if outputs else (),
            why=why or "" if outputs is None or member.name in outputs.students else "its outputs lack this student",
        )


def _outputs(run: Run) -> tuple[Any, str]:
    """Return what a run keeps of its outputs, or None and why there are none; the rest of the run is read anyway."""
    try:
        found = read_outputs(run)
    except RunDirError as err:
        return None, f"{run.path}: {err.message}"
    if found is None:
        return None, "a run of this row or of RMT-KD keeps no outputs; compress it again to compare row by row"
    return found, ""


def _body(run: Run, folder: str) -> int | None:
    return spec_from_dict(run.read_record(ModelRecord, f"{folder}/{layout.SHAPE}").spec).count_body_parameters()


def _cycles_of(record: CompressRecord, target: float | None) -> tuple[CycleRecord, ...]:
    """Return the cycles that a student comes from: of a family those up to its target, unless it began anew."""
    if target is None:
        return record.cycles
    own = tuple(cycle for cycle in record.cycles if cycle.target == target)
    if own and own[0].parameters_before == record.teacher.parameters:
        return own
    return tuple(cycle for cycle in record.cycles if cycle.target is None or cycle.target <= target)


def _settings(recipe: Recipe, record: CompressRecord, way: list[float]) -> dict[str, str]:
    """Return what can make two students of one group differ, by its key in the recipe."""
    found = dict(_flat(find_method(record.method).settings(recipe).model_dump(mode="json")))
    kept = {key: value for key, value in found.items() if key not in NO_SETTING and not key.startswith(NO_SECTION)}
    kept = {key: value for key, value in kept.items() if key not in LIMITS}
    kept |= {key: Path(kept[key]).name for key in FILES if kept.get(key)}
    kept["train.precision"] = found["train.precision"]
    kept["compress.warm_start"] = found["compress.warm_start"] or "least-squares"  # what unset means
    kept["stop.target_reduction"] = way[0] if len(way) == 1 else way or None  # of a family, the way to this student
    kept[TRAIN_ROWS] = record.task.train_rows
    return {key: json.dumps(value, sort_keys=True) for key, value in kept.items()}


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield prefix + key, value
