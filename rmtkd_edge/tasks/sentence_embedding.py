"""Sentence embeddings: a student whose embeddings are near to its teacher's, learnt from raw sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Head
from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import embedding_metrics as metrics
from rmtkd_edge.tasks.base import Batch, Dataset, FewerTokens, Normalisation, Task
from rmtkd_edge.tasks.labelled import at_least_float32, signed_sum
from rmtkd_edge.tasks.reading.sentence_pairs import ScoredPairs, scored_pairs
from rmtkd_edge.tasks.reading.usage import HubTask, embedding_clients
from rmtkd_edge.tasks.texts import TextSplit, TextTask

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

SAME = 0.99  # cosine from which two embeddings count as the same
SIMILARITIES = 1.0  # weight of the squared differences of similarities, next to the distance of embeddings


class SentenceEmbedding(TextTask):
    """A vector a row, compared by direction; rows of train have no targets.

    Those of the other splits have the teacher's embeddings, float32 (n, width), from `with_reference` on; with
    `task.pairs` (n, width + 2), see `embedding_metrics`.
    """

    name = "sentence-embedding"
    head: Head = "embedding"
    labelled = False
    hub = HubTask("feature-extraction", None, embedding_clients)
    known_metrics = metrics.KNOWN
    percent_metrics: tuple[str, ...] = ()
    prediction: Literal["none"] = "none"

    # data
    def label_columns(self, task: TaskSettings) -> Sequence[str]:
        """Return none: sentences have no labels."""
        return ()

    def names(self, task: TaskSettings, train: pa.Table) -> list[str]:
        """Return none: the values of an embedding have no names. Raise DataError for a recipe with two columns."""
        if len(task.text) > 1:
            raise DataError(
                f"task.text names {', '.join(task.text)}, and an embedding is of one text",
                f'task.text = ["{task.text[0]}"]; give the other column as rows of their own',
            )
        return []

    def values(self, task: TaskSettings, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
        """Return nothing of every row, float32 (n, 0)."""
        return np.zeros((len(table), 0), np.float32)

    def load(
        self,
        recipe: Recipe,
        data: Path | None,
        *,
        kept: Path | None = None,
        source_normalisation: Normalisation | None = None,
    ) -> Dataset[TextSplit]:
        """Return the tokenised sentences of a recipe; scored pairs come after those of validation and test."""
        found = super().load(recipe, data, kept=kept)
        found = replace(found, train=replace(found.train, labels=None))
        if recipe.task.pairs is None:
            return found
        roles = [role for role in found.splits if role != "train"]
        pairs = scored_pairs(recipe.task, found.preprocessing, len(roles))
        splits = {role: _with_pairs(found.splits[role], part) for role, part in zip(roles, pairs, strict=True)}
        digests = {**found.digests, **{role: split.digest(()) for role, split in splits.items()}}
        return replace(found, validation=splits["validation"], test=splits.get("test"), digests=digests)

    def with_reference(self, dataset: Dataset[TextSplit], outputs: Callable[[Batch], np.ndarray]) -> Dataset[TextSplit]:
        """Return the data set with the teacher's embeddings as targets of validation and test."""

        def referred(split: TextSplit) -> TextSplit:
            found = [
                (batch["index"].numpy(), outputs(batch))
                for batch in self.batches(dataset, split, self.evaluation_batch, None)
            ]
            order = np.argsort(np.concatenate([rows for rows, _ in found]))
            reference = np.concatenate([part for _, part in found])[order].astype(np.float32)
            tail = np.zeros((len(split), 0), np.float32) if split.labels is None else split.labels
            return replace(split, labels=np.concatenate([reference, tail], axis=1))

        test = None if dataset.test is None else referred(dataset.test)
        return replace(dataset, validation=referred(dataset.validation), test=test)

    def with_same_reference(self, dataset: Dataset[TextSplit], other: Dataset[TextSplit]) -> Dataset[TextSplit]:
        """Return the data set with the targets of another one, of the same rows."""
        test = dataset.test
        if test is not None and other.test is not None:
            test = replace(test, labels=other.test.labels)
        return replace(dataset, validation=replace(dataset.validation, labels=other.validation.labels), test=test)

    def cut_vocabulary(
        self, dataset: Dataset[TextSplit], recipe: Recipe, data: Path | None, folder: Path
    ) -> FewerTokens[TextSplit]:
        """Cut as for any text; the reference stays what the teacher gave with all tokens."""
        found = super().cut_vocabulary(dataset, recipe, data, folder)
        return replace(found, dataset=self.with_same_reference(found.dataset, dataset))

    def told(self, labels: Sequence[str], value: Any) -> str:
        """Return that a row has no label."""
        return "no label"

    def predictions(self, outputs: np.ndarray, labels: Sequence[str]) -> list[np.ndarray]:
        """Return the embedding of each row."""
        return list(outputs)

    # training
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return how far embeddings are from those of the batch's reference."""
        if "labels" not in batch or batch["labels"].ndim != 2 or not batch["labels"].shape[1]:
            raise DataError(
                "sentences have no labels that a loss could read",
                "set distil.alpha = 0, and a method that learns from its teacher alone",
            )
        return self.divergence(batch["labels"][:, : outputs.shape[1]], outputs.float())

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        """Return half the squared distance (1 - cosine where lengths are 1), plus that of similarities in the batch.

        The distance is a share of the old embeddings' squared length, and similarities are cosines; there is nothing
        that softens them.
        """
        from torch.nn import functional as F

        a, b = at_least_float32(old), at_least_float32(new)
        a = a.to(b) if b.dtype != a.dtype else a
        apart = (a - b).pow(2).sum(-1).mean() / (2 * a.pow(2).sum(-1).mean())
        if len(a) < 2:
            return apart
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        others = (a @ a.T - b @ b.T).pow(2).sum() / (len(a) * (len(a) - 1))
        return apart + SIMILARITIES * others

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        """Return v^T z summed over rows, for random signs v."""
        return signed_sum(outputs, batch, seed)

    # figures
    def targets(self, batch: Batch) -> np.ndarray:
        """Return the teacher's embeddings, float32 (B, width) or (B, width + 2)."""
        if batch["labels"].ndim != 2:
            raise DataError(
                f"`labels` is {tuple(batch['labels'].shape)}, and an embedder is judged by embeddings (rows, width)",
                "leave `labels` out of the batches, or give the teacher's embeddings",
            )
        return np.asarray(batch["labels"].cpu(), np.float32)

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Return every known metric that the rows allow."""
        return metrics.embedding_metrics(np.concatenate(outputs), np.concatenate(targets))

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        """Return the best metrics of giving every row the same embedding."""
        return metrics.constant_metrics(np.concatenate(targets), outputs)

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        """Return why `metrics` leaves a metric out, an empty text where it does not."""
        return metrics.why_missing(metric, np.concatenate(outputs), np.concatenate(targets))

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric, None where the rows do not allow it."""
        return metrics.interval(metric, np.concatenate(outputs), np.concatenate(targets), seed)

    def row_scores(self, metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Return the cosines with the teacher's embeddings, None for the other metrics or with pairs."""
        alone = targets.shape[1] == outputs.shape[1]
        return metrics.cosines(outputs, targets) if metric == metrics.COSINE and alone else None

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        """Return the share of rows whose embeddings have a cosine of 0.99 or more."""
        return float((metrics.cosines(a, b) >= SAME).mean())


def _with_pairs(split: TextSplit, pairs: ScoredPairs) -> TextSplit:
    """Return a split with the halves of pairs after its rows, and targets (n, 2): number and score of a pair."""
    alone = np.tile(np.array([[-1.0, 0.0]], np.float32), (len(split), 1))
    return replace(split.with_rows(pairs.ids, None), labels=np.concatenate([alone, pairs.numbers_and_scores]))


TASK: Task[TextSplit] = SentenceEmbedding()
