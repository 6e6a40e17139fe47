"""The scores that are reported, at the end of a compression, and the outputs that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rmtkd_edge.compress.context import State
from rmtkd_edge.compress.training.evaluate import outputs_of, scores_of
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.records.compress import StudentRecord
from rmtkd_edge.run.records.teacher import TeacherRecord

if TYPE_CHECKING:
    from rmtkd_edge.compress.stage import Prepared
    from rmtkd_edge.families.model import Model


def final_scores(
    recipe: Recipe, ready: Prepared, model: Model, teacher: TeacherRecord, states: Sequence[State]
) -> tuple[TeacherRecord, list[StudentRecord], list[list[np.ndarray]]]:
    """Return all models with their reported scores and interval: of the test split, else of validation.

    The test split is read here alone. What was scored comes too, in batches: the targets, the teacher's outputs, those
    of every student.
    """
    students = [StudentRecord(state.parameters, state.scores, None) for state in states]
    split = "validation" if ready.dataset.test is None else "test"
    seen: list[list[np.ndarray]] = []
    scores = []
    for found in (model, *(state.folded for state in states)):
        there = found.to(ready.accelerator.device)
        outputs, targets = outputs_of(there, ready.task, ready.batches(split), ready.accelerator)
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
