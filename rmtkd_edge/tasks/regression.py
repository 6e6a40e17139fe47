"""Regression: a number for a text, such as a rating, or for a pair of texts, such as their similarity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import number_metrics as metrics
from rmtkd_edge.tasks.base import Batch, Dataset, Task
from rmtkd_edge.tasks.labelled import at_least_float32, signed_sum
from rmtkd_edge.tasks.reading.numbers import describe_numbers, numbers
from rmtkd_edge.tasks.reading.usage import HubTask, text_clients
from rmtkd_edge.tasks.texts import TextSplit, TextTask

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

MEANING = "one logit a row: the number itself, in the units of the training data"
SAME = 0.01  # of the largest output: numbers that differ by no more count as the same prediction


class Regression(TextTask):
    """One output a row, in the units of the data, named after the column; a split's labels are float32 (n,).

    Errors are divided by the variance of train's numbers, `variance` of a batch (1 where it has none): a loss of 1 is
    that of always predicting the mean, whatever the units.
    """

    name = "regression"
    hub = HubTask("text-classification", "regression", partial(text_clients, meaning=MEANING, answer="numbers"))
    known_metrics = metrics.KNOWN
    percent_metrics: tuple[str, ...] = ()
    prediction: Literal["none"] = "none"

    # data
    def names(self, task: TaskSettings, train: pa.Table) -> list[str]:
        """Return the name of the output: the column's."""
        return [task.label]

    def values(self, task: TaskSettings, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
        """Return the number of every row, float32 (n,)."""
        return numbers(task, table, where)

    def label_notes(
        self, task: TaskSettings, train: pa.Table, names: Sequence[str], values: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        """Return a line on the range of train's numbers."""
        return (describe_numbers(values["train"], "train"),)

    def told(self, labels: Sequence[str], value: Any) -> str:
        """Return a row's number."""
        return f"{labels[0]} {value:g}"

    def predictions(self, outputs: np.ndarray, labels: Sequence[str]) -> list[float]:
        """Return the number of each row."""
        found: list[float] = outputs[:, 0].tolist()
        return found

    def batches(
        self, dataset: Dataset[TextSplit], split: TextSplit, batch_size: int, seed: int | None
    ) -> Iterator[Batch]:
        """Yield padded batches, with the `variance` of train's numbers at every row."""
        assert dataset.train.labels is not None, "rows of train have numbers"
        variance = float(dataset.train.labels.astype(np.float64).var())
        for batch in super().batches(dataset, split, batch_size, seed):
            yield batch | {"variance": batch["labels"].new_full((len(batch["labels"]),), variance)}

    # training
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared error as a share of the variance."""
        return _error(_one(outputs).float(), batch["labels"], batch)

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        """Return the mean squared difference as a share of the variance; there is nothing that softens numbers."""
        return _error(at_least_float32(_one(new)), _one(old), batch or {})

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        """Return the outputs summed with random signs."""
        return signed_sum(outputs, batch, seed)

    # figures
    def targets(self, batch: Batch) -> np.ndarray:
        """Return the numbers, float64 (B,)."""
        return np.asarray(batch["labels"].cpu(), np.float64)

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Return every known metric, none where all targets are the same."""
        return metrics.number_metrics(np.concatenate(outputs)[:, 0], np.concatenate(targets))

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        """Return the metrics of always predicting the mean: it ranks nothing and explains nothing."""
        return {} if metrics.is_constant(np.concatenate(targets)) else dict.fromkeys(metrics.KNOWN, 0.0)

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        """Return why `metrics` leaves a metric out, an empty text where it does not."""
        return f"{metric} needs targets that differ" if metrics.is_constant(np.concatenate(targets)) else ""

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric, None where all targets are the same."""
        return metrics.interval(metric, np.concatenate(outputs)[:, 0], np.concatenate(targets), seed)

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        """Return the share of rows whose numbers differ by 1 % of the batch's largest at most."""
        return float((np.abs(a - b) <= SAME * max(np.abs(a).max(), np.abs(b).max())).all(1).mean())


def _one(outputs: Tensor) -> Tensor:
    """Return outputs (B, 1) as (B,); raise DataError for a model that gives more than one a row."""
    if outputs.shape[1:] != (1,):
        raise DataError(
            f"the model gives outputs {tuple(outputs.shape)}, and a regression needs one a row",
            "take a model with num_labels = 1, or another task",
        )
    return outputs[:, 0]


def _error(found: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
    squares = (found - wanted.to(found)) ** 2
    return (squares / batch["variance"].to(found)).mean() if "variance" in batch else squares.mean()


TASK: Task[TextSplit] = Regression()
