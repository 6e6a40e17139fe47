"""Multi-label classification: any number of labels for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import label_set_metrics as metrics
from rmtkd_edge.tasks.base import Batch, Task
from rmtkd_edge.tasks.labelled import at_least_float32, signed_sum
from rmtkd_edge.tasks.reading.label_sets import label_set_names, label_sets, single_labels
from rmtkd_edge.tasks.reading.labels import label_notes
from rmtkd_edge.tasks.reading.stratify import LabelSets
from rmtkd_edge.tasks.reading.usage import HubTask, text_clients
from rmtkd_edge.tasks.texts import TextSplit, TextTask

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


MEANING = "a row has the labels whose logit is above 0; 1 / (1 + exp(-logit)) is the probability of each"


class MultiLabel(TextTask):
    """Labels that are given independently of each other; a split's labels are bool (n, labels).

    Loss and divergence are sums over labels, as those of one label a row are of whole rows.
    """

    name = "multi-label"
    hub = HubTask("text-classification", "multi_label_classification", partial(text_clients, meaning=MEANING))
    known_metrics = metrics.KNOWN
    percent_metrics = metrics.KNOWN
    prediction: Literal["sign"] = "sign"

    # data
    def label_columns(self, task: TaskSettings) -> Sequence[str]:
        """Return the one column of labels, or those of 0 and 1."""
        return task.label_columns or (task.label,)

    def names(self, task: TaskSettings, train: pa.Table) -> list[str]:
        """Return the names of the labels in label order."""
        return label_set_names(task, train)

    def values(self, task: TaskSettings, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
        """Return which labels every row has, bool (n, labels)."""
        found = label_sets(task, table, where, names)
        if not found.any():
            raise DataError(f"no row of {where} has a label", "set task.label or task.label_columns to other columns")
        return found

    def shared_labels(self, names: Sequence[str], values: np.ndarray) -> LabelSets:
        """Return which labels every row has: every split holds about the same share of each."""
        return LabelSets(values)

    def check(self, task: TaskSettings, names: Sequence[str], split: str, values: np.ndarray) -> None:
        """Raise DataError where the labels of a split do not allow the recipe's metric."""
        if task.metric and (why := metrics.why_missing(task.metric, values)):
            raise DataError(
                f"task.metric = {task.metric} cannot be computed on the {split} split: {why} (labels: "
                f"{', '.join(names)})",
                f"--set task.metric=f1_micro, or bring another {split} split",
            )

    def label_notes(
        self, task: TaskSettings, train: pa.Table, names: Sequence[str], values: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        """Return lines on rows without labels, labels that look alike, and those that a split has not."""
        without = {split: int((~found.any(1)).sum()) for split, found in values.items()}
        told = ", ".join(f"{count} of {len(values[split])} in {split}" for split, count in without.items() if count)
        notes = [f"rows without any label are learnt as such: {told}"] if told else []
        if not task.label_columns:
            notes += label_notes(task, single_labels(task, train, "train")[0])
        return (*notes, *self.absent(names, values))

    def counts(self, labels: Sequence[str], values: np.ndarray) -> dict[str, int]:
        """Return the rows of every label by its name."""
        return dict(zip(labels, values.sum(0).tolist(), strict=True))

    def told(self, labels: Sequence[str], value: Any) -> str:
        """Return the names of a row's labels."""
        return ", ".join(self.predictions(value[None], labels)[0]) or "no label"

    def predictions(self, outputs: np.ndarray, labels: Sequence[str]) -> list[list[str]]:
        """Return the labels of each row: those whose logit is above zero, their probability above a half."""
        return [[label for label, has in zip(labels, row > 0, strict=True) if has] for row in outputs]

    # training
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the binary cross entropy summed over labels, mean over rows."""
        from torch.nn import functional as F

        found = outputs.float()
        return F.binary_cross_entropy_with_logits(found, batch["labels"].to(found), reduction="sum") / len(found)

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        """Return T^2 KL(old || new) of sigmoid(logits / T), summed over labels, mean over rows."""
        import torch
        from torch.nn import functional as F

        def both(logits: Tensor) -> Tensor:
            z = at_least_float32(logits) / temperature
            return torch.stack([F.logsigmoid(z), F.logsigmoid(-z)])

        found = F.kl_div(both(new), both(old), log_target=True, reduction="sum")
        return temperature**2 * found / len(new)

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        """Return v^T z summed over rows, for random signs v."""
        return signed_sum(outputs, batch, seed)

    # figures
    def targets(self, batch: Batch) -> np.ndarray:
        """Return which labels each row has, bool (B, labels)."""
        return np.asarray(batch["labels"].cpu()) > 0

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Return every known metric that the rows allow."""
        return metrics.label_set_metrics(np.concatenate(outputs), np.concatenate(targets))

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        """Return the best metrics of giving every row the same labels, another set for each metric."""
        return metrics.constant_metrics(np.concatenate(targets))

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        """Return why `metrics` leaves a metric out, an empty text where it does not."""
        return metrics.why_missing(metric, np.concatenate(targets)) or ""

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric, None where the rows do not allow it."""
        return metrics.interval(metric, np.concatenate(outputs), np.concatenate(targets), seed)

    def row_scores(self, metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Return 1.0 where all labels are right and 0.0 elsewhere for subset_accuracy, None for the other metrics."""
        return ((outputs > 0) == targets).all(1).astype(np.float64) if metric == "subset_accuracy" else None

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        """Return the share of rows with the same labels."""
        return float(((a > 0) == (b > 0)).all(1).mean())


TASK: Task[TextSplit] = MultiLabel()
