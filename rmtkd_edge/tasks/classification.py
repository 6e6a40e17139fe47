"""What text and image classification share: one label a row, logits (B, labels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral.seeded import row_contrasts
from rmtkd_edge.tasks import metrics
from rmtkd_edge.tasks.base import Batch
from rmtkd_edge.tasks.labelled import Labelled, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor


class Classification(Labelled):
    """Loss, metrics and predictions of a classifier; targets are `labels`, int64 (B,)."""

    known_metrics = metrics.KNOWN
    percent_metrics = metrics.SHARES
    prediction: Literal["argmax"] = "argmax"

    def counts(self, labels: Sequence[str], values: np.ndarray) -> dict[str, int]:
        """Return the rows of every label by its name."""
        return label_counts(labels, values)

    def told(self, labels: Sequence[str], value: Any) -> str:
        """Return the name of a row's label."""
        return labels[value]

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross entropy."""
        from torch.nn import functional as F

        return F.cross_entropy(outputs.float(), batch["labels"])

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        """Return T^2 KL(old || new) of softmax(logits / T), mean over the batch.

        T^2 keeps the gradient's size (Hinton et al. 2015); T = 1 is the RMT-KD paper's loss.
        """
        from torch.nn import functional as F

        p_new = F.log_softmax(at_least_float32(new) / temperature, dim=-1)
        p_old = F.log_softmax(at_least_float32(old) / temperature, dim=-1)
        return temperature**2 * F.kl_div(p_new, p_old, log_target=True, reduction="batchmean")

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        """Return v^T z summed over rows, for random v of each row that sum to zero: softmax is blind to a shift."""
        import torch

        # seed and seed + 1 draw the sampled tokens or pixels; these draws are independent of them
        drawn = row_contrasts(seed + 2, batch["index"].cpu().numpy(), outputs.shape[1])
        return (outputs * torch.from_numpy(drawn).to(outputs)).sum()

    def targets(self, batch: Batch) -> np.ndarray:
        """Return the places of the labels, int64 (B,)."""
        return np.asarray(batch["labels"].cpu(), np.int64)

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Return every known metric that the rows allow."""
        return metrics.classification_metrics(np.concatenate(outputs), np.concatenate(targets))

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        """Return the best metrics of always predicting one label; none where there is but one label."""
        rows = np.concatenate(targets)
        frequent = int(np.bincount(rows, minlength=outputs).argmax())
        if (rows == frequent).all():
            return {}
        found = [_of_one_label(answer, outputs, rows) for answer in {frequent, outputs - 1}]  # f1 is of the last one
        return {name: max(each[name] for each in found) for name in found[0]}

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        """Return why `metrics` leaves a metric out, an empty text where it does not."""
        return metrics.why_missing(metric, outputs[0].shape[1], np.concatenate(targets)) or ""

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric, None where the rows do not allow it."""
        return metrics.interval(metric, np.concatenate(outputs), np.concatenate(targets), seed)

    def row_scores(self, metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Return 1.0 where the label is right and 0.0 elsewhere for accuracy, None for the other metrics."""
        return (outputs.argmax(1) == targets).astype(np.float64) if metric == "accuracy" else None

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        """Return the share of rows with the same largest logit."""
        return float((a.argmax(1) == b.argmax(1)).mean())


def check_metric(task: Task, labels: Sequence[str], split: str, numbers: np.ndarray) -> None:
    """Raise DataError where a split's labels, int64 (n,), do not allow the metric that the recipe names."""
    why = metrics.why_missing(task.metric, len(labels), numbers) if task.metric else None
    if why is not None:
        raise DataError(
            f"task.metric = {task.metric} cannot be computed on the {split} split: {why} (labels: {', '.join(labels)})",
            f"--set task.metric=f1_macro, or bring another {split} split",
        )


def label_counts(labels: Sequence[str], numbers: np.ndarray) -> dict[str, int]:
    """Return the rows of every label by its name; `numbers` (n,) are the rows' labels."""
    return dict(zip(labels, np.bincount(numbers, minlength=len(labels)).tolist(), strict=True))


def most_likely(logits: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Return the name of each row's largest logit."""
    return [labels[i] for i in logits.argmax(1)]


def _of_one_label(answer: int, outputs: int, rows: np.ndarray) -> dict[str, float]:
    constant = np.zeros((len(rows), outputs), np.float32)
    constant[:, answer] = 1.0
    return metrics.classification_metrics(constant, rows)
