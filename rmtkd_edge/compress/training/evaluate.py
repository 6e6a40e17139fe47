"""A model's scores on a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rmtkd_edge.compress.parallel import agreed
from rmtkd_edge.families.base import call
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import Batch, Dataset, JudgedByTeacher, Task
from rmtkd_edge.tasks.scoring import score

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model


@torch.no_grad()
def outputs_of(
    model: Model, task: Task[Any], batches: Iterable[Batch], accelerator: Accelerator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return a model's outputs, float32, and the targets of the same rows, batch by batch."""
    model.eval()
    outputs, targets = [], []
    for batch in batches:
        there = {name: rows.to(accelerator.device) for name, rows in batch.items()}
        outputs.append(call(model, there).float().cpu().numpy())
        targets.append(task.targets(batch))
    return outputs, targets


def with_reference(dataset: Dataset[Any], task: Task[Any], teacher: Model, accelerator: Accelerator) -> Dataset[Any]:
    """Return the data set; of a task that is judged by its teacher, with its outputs as targets of held-out rows."""
    if not isinstance(task, JudgedByTeacher):
        return dataset
    teacher = teacher.to(accelerator.device).eval()

    @torch.no_grad()
    def outputs(batch: Batch) -> np.ndarray:
        there = {name: rows.to(accelerator.device) for name, rows in batch.items()}
        return call(teacher, there).float().cpu().numpy()

    return task.with_reference(dataset, outputs)


def scores_of(
    outputs: list[np.ndarray],
    targets: list[np.ndarray],
    task: Task[Any],
    accelerator: Accelerator,
    split: str,
    metric: str | None,
    interval: bool = False,
) -> Scores:
    """Return the scores of outputs; the first process's figures hold in all of them.

    Args:
        split: what the rows are called, `validation` or `test`.
        metric: the primary one, None: the task's first.
        interval: give the 95 % interval of the primary metric too.
    """
    found = score(task, metric, split, outputs, targets, interval)
    values = {name: agreed(value, accelerator) for name, value in found.values.items()}
    ends = [agreed(end, accelerator) for end in found.interval or ()]
    return replace(found, values=values, interval=(ends[0], ends[1]) if ends else None)


def evaluate(
    model: Model,
    task: Task[Any],
    batches: Iterable[Batch],
    accelerator: Accelerator,
    split: str,
    metric: str | None,
    interval: bool = False,
) -> Scores:
    """Return a model's scores (see `scores_of`); every process looks at all rows."""
    return scores_of(*outputs_of(model, task, batches, accelerator), task, accelerator, split, metric, interval)
