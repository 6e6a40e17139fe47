"""The metrics of a model's outputs on a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmtkd_edge.errors import DataError, NotFiniteError
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import Task


def score(
    task: Task[Any],
    metric: str | None,
    split: str,
    outputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    interval: bool = False,
) -> Scores:
    """Return the metrics of a model's outputs on one split.

    Args:
        metric: the primary one; None: the task's first.
        split: its name, `validation` or `test`.
        outputs, targets: batch by batch.
        interval: give the primary metric's 95 % interval too.

    Raises:
        DataError: there are no rows, or they do not allow the primary metric.
        NotFiniteError: the model gives some rows no finite outputs, of which no metric can be made.
    """
    rows = sum(map(len, targets))
    if not rows:
        raise DataError(f"the {split} split has no rows", f"check task.{split}_split")
    odd = sum(int((~np.isfinite(batch)).reshape(len(batch), -1).any(1).sum()) for batch in outputs)
    if odd:
        raise NotFiniteError(
            f"the model's outputs on {odd} of {rows} {split} rows are NaN or infinite",
            "check the weights of the checkpoint; half precision overflows above 65504",
        )
    primary = metric or task.known_metrics[0]
    values = task.metrics(outputs, targets)
    if primary not in values:
        why = task.why_missing(primary, outputs, targets)
        raise DataError(
            f"{primary} cannot be computed on the {rows} rows of the {split} split: {why}",
            f"--set task.metric=NAME with one of {', '.join(values)}, or bring another {split} split",
        )
    found = task.interval(primary, outputs, targets) if interval else None
    return Scores(split, rows, primary, values, found, primary in task.percent_metrics)
