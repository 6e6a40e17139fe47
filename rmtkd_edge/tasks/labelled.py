"""What tasks share whose rows have one target each, under `labels`: what a summary says of them, small tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtkd_edge.config.settings import Head
from rmtkd_edge.run.records.data import DataSummary, RowSummary, SplitSummary
from rmtkd_edge.spectral.seeded import row_signs
from rmtkd_edge.tasks.base import Batch, Dataset, Prediction
from rmtkd_edge.tasks.reading.usage import HubTask

if TYPE_CHECKING:
    from torch import Tensor

FIRST_ROWS = 2  # that a summary shows

Predictions = Callable[[np.ndarray, Sequence[str]], list[Any]]  # of outputs (n, labels) and the labels


class Labelled:
    """A task whose splits have `labels`, an array with a target a row."""

    name: str
    head: Head = "row"
    labelled = True
    target_names = ("labels",)
    hub: HubTask | None = None

    def summary(self, dataset: Dataset[Any]) -> DataSummary:
        """Return what was read: rows by label, sequences that were cut, the first rows."""
        first, targets = range(min(FIRST_ROWS, len(dataset.train))), dataset.train.labels
        return DataSummary(
            name=dataset.name,
            kind=self.name,
            sources=dataset.sources,
            splits={
                role: SplitSummary(len(split), self.counts(dataset.labels, split.labels), self.cut(dataset, split))
                for role, split in dataset.splits.items()
            },
            max_length=dataset.max_length,
            not_used=dataset.not_used,
            first_rows=tuple(
                RowSummary(self.told(dataset.labels, targets[row] if self.labelled else None), self.seen(dataset, row))
                for row in first
            ),
            notes=dataset.notes,
        )

    def counts(self, labels: Sequence[str], values: np.ndarray) -> dict[str, int]:
        """Return the rows of every label by its name, none where targets are no labels."""
        return {}

    def absent(self, labels: Sequence[str], values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Return lines on labels that a split has no rows of; `values` are the targets by split."""
        counts = {split: self.counts(labels, found) for split, found in values.items()}
        missing = {split: [name for name, count in found.items() if not count] for split, found in counts.items()}
        return tuple(f"{split} has no rows of the labels {', '.join(no)}" for split, no in missing.items() if no)

    def told(self, labels: Sequence[str], value: Any) -> str:
        """Return a row's target in words."""
        raise NotImplementedError

    def cut(self, dataset: Dataset[Any], split: Any) -> int | None:
        """Return how many sequences of a split fill the longest length; None for data that are no sequences."""
        return None

    def seen(self, dataset: Dataset[Any], row: int) -> str:
        """Return in words what a model sees of a row of train."""
        return ""

    def row_scores(self, metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Return None: the metric is no mean over rows."""
        return None


def joined(outputs: Sequence[np.ndarray], labels: Sequence[str], predictions: Predictions) -> Prediction:
    """Return batches of outputs as one prediction; no batches give outputs (0, labels)."""
    whole = np.concatenate(outputs) if len(outputs) else np.zeros((0, len(labels)), np.float32)
    return Prediction(whole, predictions(whole, labels))


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 where it has that."""
    import torch

    return x.to(torch.promote_types(x.dtype, torch.float32))


def signed_sum(outputs: Tensor, batch: Batch, seed: int) -> Tensor:
    """Return v^T z summed over rows, for random signs v of each row: the probe of outputs that all count alike."""
    import torch

    # seed and seed + 1 draw the sampled tokens or pixels; these draws are independent of them
    drawn = row_signs(seed + 2, batch["index"].cpu().numpy(), outputs.shape[1])
    return (outputs * torch.from_numpy(drawn).to(outputs)).sum()
