"""The scores that are reported, at the end of a compression, and the outputs that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rmtkd_edge.compress.context import State
from rmtkd_edge.compress.training.evaluate import outputs_of, scores_of
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.records.compress import StudentRecord
from rmtkd_edge.run.records.teacher import TeacherRecord
from rmtkd_edge.tasks.base import Batch

if TYPE_CHECKING:
    from rmtkd_edge.compress.prepared import Prepared
    from rmtkd_edge.families.model import Model


def final_scores(
    recipe: Recipe,
    ready: Prepared,
    of_students: Prepared,
    model: Model,
    teacher: TeacherRecord,
    states: Sequence[State],
) -> tuple[TeacherRecord, list[StudentRecord], list[list[np.ndarray]]]:
    """Return all models with their reported scores and interval: of the test split, else of validation.

    The test split is read here alone. What was scored comes too, in batches: the targets, the teacher's outputs, those
    of every student.

    Args:
        ready, of_students: the rows as the teacher and as the students read them.
    """
    students = [StudentRecord(state.parameters, state.scores, None) for state in states]
    split = "validation" if ready.dataset.test is None else "test"
    seen: list[list[np.ndarray]] = []
    scores = []
    for found, rows in ((model, ready), *((state.folded, of_students) for state in states)):
        there = found.to(ready.accelerator.device)
        outputs, targets = outputs_of(there, ready.task, rows.batches(split), ready.accelerator)
        if rows is not ready:
            order = [_numbers(read.batches(split)) for read in (rows, ready)]
            outputs, targets = (_reordered(values, *order) for values in (outputs, targets))
        metric = recipe.task.metric
        scores.append(scores_of(outputs, targets, ready.task, ready.accelerator, split, metric, interval=True))
        seen += [outputs] if seen else [targets, outputs]
    first, *others = scores
    if split == "test":
        scored = [replace(student, test=found) for student, found in zip(students, others, strict=True)]
        return replace(teacher, test=first), scored, seen
    scored = [
        replace(student, validation=replace(student.validation, interval=found.interval))
        for student, found in zip(students, others, strict=True)
    ]
    return replace(teacher, validation=replace(teacher.validation, interval=first.interval)), scored, seen


def _numbers(batches: Iterable[Batch]) -> list[list[int]]:
    """Return the numbers of the rows of every batch."""
    return [batch["index"].tolist() for batch in batches]


def _reordered(
    values: Sequence[np.ndarray], found: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Return what batches of rows `found` hold as batches of rows `wanted`: the order depends on the tokenizer."""
    by_row = {i: row for rows, batch in zip(found, values, strict=True) for i, row in zip(rows, batch, strict=True)}
    return [np.stack([by_row[i] for i in rows]) for rows in wanted]
