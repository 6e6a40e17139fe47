"""Whether a teacher has learnt anything: it must beat a model that looks at no input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rmtkd_edge.errors import TrainingError, UserError
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import Batch, Task

CAUSES = (
    "the usual causes: another order of labels (task.labels), another normalisation of images (task.mean and task.std) "
    "or tokenizer (model.tokenizer), another architecture (model.shape.stem), or a classifier that was never trained "
    "(save the model without it)"
)
LONGER = (
    "train it longer or at another rate (train.epochs, train.learning_rate); where most rows have the same target, "
    "another task.metric may tell more"
)
LOOK = "`rmtkd-edge compress RECIPE --dry-run` shows what is read"


def check_loaded(source: str, scores: Scores, baseline: float | None) -> None:
    """Raise UserError for a teacher that came trained and is no better than one that looks at no input."""
    if fault := _fault(scores, baseline):
        raise UserError(f"`{source}` came trained, and {fault}", f"{CAUSES}; {LOOK}")


def check_trained(scores: Scores, baseline: float | None) -> None:
    """Raise TrainingError for a teacher that was trained and is no better than one that looks at no input."""
    if fault := _fault(scores, baseline):
        raise TrainingError(f"the teacher was trained, and {fault}", f"{LONGER}; {LOOK}")


def chance(source: str, scores: Scores, baseline: float | None) -> str:
    """Return a note where a model that looks at no input could have this metric, by its 95 % interval, else nothing.

    A classifier with random weights is better than such a model half of the time.
    """
    if baseline is None or scores.interval is None or scores.interval[0] > baseline:
        return ""
    return (
        f"`{source}` came trained, but its {scores.primary} of {scores.value:.4f} on {scores.rows} validation rows may "
        f"be chance ({baseline:.4f} is that of always predicting the same): it is trained"
    )


def baseline_value(task: Task[Any], batches: Iterable[Batch], outputs: int, metric: str) -> float | None:
    """Return the metric that a model which looks at no input has on these rows, None where there is none to beat.

    Args:
        outputs: values a row that models of the task give.
    """
    return task.baseline([task.targets(batch) for batch in batches], outputs).get(metric)


def _fault(scores: Scores, baseline: float | None) -> str:
    if baseline is None or scores.value > baseline:
        return ""
    return (
        f"its {scores.primary} of {scores.value:.4f} on {scores.rows} validation rows is no better than the "
        f"{baseline:.4f} of always predicting the same"
    )
