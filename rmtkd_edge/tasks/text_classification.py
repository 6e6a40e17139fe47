"""Text classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.tasks.base import Task
from rmtkd_edge.tasks.classification import Classification, check_metric, most_likely
from rmtkd_edge.tasks.reading.labels import label_names, label_notes, label_numbers
from rmtkd_edge.tasks.reading.stratify import Classes
from rmtkd_edge.tasks.reading.usage import HubTask, text_clients
from rmtkd_edge.tasks.texts import TextSplit, TextTask

if TYPE_CHECKING:
    import pyarrow as pa


class TextClassification(TextTask, Classification):
    """One label for a text, or for a pair of texts; a split's labels are int64 (n,)."""

    name = "text-classification"
    hub = HubTask("text-classification", "single_label_classification", text_clients)

    def names(self, task: TaskSettings, train: pa.Table) -> list[str]:
        """Return the names of the labels in label order."""
        return label_names(task, train)

    def values(self, task: TaskSettings, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
        """Return the place of every row's label in `names`, int64 (n,)."""
        return label_numbers(task, table, where, names)

    def shared_labels(self, names: Sequence[str], values: np.ndarray) -> Classes:
        """Return the labels: every split holds all of them."""
        return Classes(names, values)

    def check(self, task: TaskSettings, names: Sequence[str], split: str, values: np.ndarray) -> None:
        """Raise DataError where the labels of a split do not allow the recipe's metric."""
        check_metric(task, names, split, values)

    def label_notes(
        self, task: TaskSettings, train: pa.Table, names: Sequence[str], values: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        """Return lines on labels that look alike or like missing values, and on those that a split has not."""
        return (*label_notes(task, train), *self.absent(names, values))

    def predictions(self, outputs: np.ndarray, labels: Sequence[str]) -> list[str]:
        """Return the label of each row."""
        return most_likely(outputs, labels)


TASK: Task[TextSplit] = TextClassification()
