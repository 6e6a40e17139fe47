"""The rows of a recipe: splits, raw samples of them, and batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np

from rmtkd_edge.config.settings import Normalisation as Normalisation
from rmtkd_edge.run.records.data import SourceSummary
from rmtkd_edge.run.records.vocabulary import VocabularyRecord

if TYPE_CHECKING:
    from torch import Tensor

Batch = dict[str, "Tensor"]
"""Model inputs by name, `index` (int64 (B,): the row's number in its split), and targets under names of the task."""


class Split(Protocol):
    """Rows of one split, ready for batches."""

    def __len__(self) -> int: ...
    def take(self, indices: np.ndarray) -> Self:
        """Return the rows of the given numbers, in their order."""


S = TypeVar("S", bound=Split)


@dataclass(frozen=True)
class Sample:
    """A row of validation before anything was done to it.

    Attributes:
        row: its number in the split.
        name: what messages call it, such as its file.
        item: as the source holds it: texts, an encoded picture.
    """

    row: int
    name: str
    item: Any


@dataclass(frozen=True)
class Dataset(Generic[S]):
    """The rows of a recipe, read and checked.

    Attributes:
        labels: names of the outputs: in label order, or of the one number; empty where the task has none.
        test: rows that are only reported, None where `task.test_fraction` is 0 and there is no test split.
        preprocessing: all that a family sees of the data: a text task's tokenizer, an image task's ImagePreprocessing.
        notes: which file or split became what, and what was done about odd rows; lines for the user.
        sources: what was read, before anything was held out.
        not_used: a line on what was there and was not read.
        augmented: shuffled batches differ from epoch to epoch in more than their order.
        max_length: tokens that a sequence is cut off at, None for data that are no sequences.
        digests: a hash of the rows by split, by which a run knows its data again; empty where the task gives none.
        samples: a few raw rows of validation, one of every kind that there is.
        distilled: rows of train, then those of `task.unlabelled`, in batches without targets; None without such rows.
    """

    name: str
    labels: tuple[str, ...]
    train: S
    validation: S
    test: S | None
    preprocessing: Any
    notes: tuple[str, ...] = ()
    sources: tuple[SourceSummary, ...] = ()
    not_used: str = ""
    augmented: bool = False
    max_length: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    distilled: S | None = None

    @property
    def learnt(self) -> S:
        """Return the rows that students learn from: of train, and those without labels."""
        return self.train if self.distilled is None else self.distilled

    @property
    def splits(self) -> dict[str, S]:
        """Return the rows by role, in the order train, validation, test."""
        found = {"train": self.train, "validation": self.validation}
        return found if self.test is None else {**found, "test": self.test}


@dataclass(frozen=True)
class FewerTokens(Generic[S]):
    """A data set as a smaller vocabulary splits it.

    Attributes:
        kept: the former ids of its tokens, increasing, int64 (n,).
    """

    dataset: Dataset[S]
    kept: np.ndarray
    record: VocabularyRecord
