"""The batches that a compression needs, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmtkd_edge.compress.parallel import mixed_seed
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.tasks.base import Batch, Dataset, Task

Batches = Callable[[], Iterable[Batch]]
Epoch = Callable[[int, int, int], Iterable[Batch]]


@dataclass(frozen=True)
class Data:
    """Batches as functions that start again at every call; `index` is the row's number.

    Attributes:
        rows: that students learn from: of train, and those without labels.
        epoch: (batch size, seed, number of the epoch) -> shuffled batches of them.
        labelled: rows of train.
        labelled_epoch: (batch size, seed, number of the epoch) -> shuffled batches of train alone.
        analysis: rows that spectra are taken from.
        effect: rows that effects on the output are measured on.
        warm: rows that closed forms are fitted on.
        trial: a part of `warm`, for closed forms that are only compared.
        judged: rows that these are compared on.
        augmented: rows differ from epoch to epoch.
    """

    rows: int
    epoch: Epoch
    labelled: int
    labelled_epoch: Epoch
    analysis: Batches
    effect: Batches
    warm: Batches
    trial: Batches
    judged: Batches
    validation: Batches
    augmented: bool = False

    def steps(self, batch_size: int) -> int:
        """Return the number of batches of an epoch of what students learn from."""
        return -(-self.rows // batch_size)

    def labelled_steps(self, batch_size: int) -> int:
        """Return the number of batches of an epoch of train."""
        return -(-self.labelled // batch_size)


def make_data(task: Task[Any], dataset: Dataset[Any], recipe: Recipe) -> Data:
    """Return the batches of a data set; the rows of its subsets are drawn once, under the recipe's seed."""
    train = dataset.learnt
    subsets = task.subsets(replace(dataset, train=train), recipe)

    def fixed(rows: np.ndarray) -> Batches:
        return in_order(task, dataset, train.take(rows))

    def epochs(split: Any) -> Epoch:
        return lambda size, seed, number: task.batches(dataset, split, size, mixed_seed(seed, number))

    return Data(
        rows=len(train),
        epoch=epochs(train),
        labelled=len(dataset.train) if task.labelled else 0,
        labelled_epoch=epochs(dataset.train),
        analysis=fixed(subsets.analysis),
        effect=fixed(subsets.effect),
        warm=fixed(subsets.warm),
        trial=fixed(subsets.trial),
        judged=fixed(subsets.judged),
        validation=in_order(task, dataset, dataset.validation),
        augmented=dataset.augmented,
    )


def in_order(task: Task[Any], dataset: Dataset[Any], split: Any) -> Batches:
    """Return the batches of a split in a fixed order, not augmented."""
    return lambda: task.batches(dataset, split, task.evaluation_batch, None)
