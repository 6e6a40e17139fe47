"""The batches that a compression needs, whatever the family, and what is read before a run directory is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rmtkd_edge.compress.parallel import Batch
from rmtkd_edge.run.directory import Run


@dataclass(frozen=True)
class Data:
    """The batches a compression needs, as functions that start anew at every call (`index` is the row's number).

    `train_epoch` takes epoch and salt, `teacher_epoch` the epoch; `augmented` rows differ from epoch to epoch. `trial`
    is a part of `warm`, for closed forms that are only compared.
    """

    train_epoch: Callable[[int, int], Iterable[Batch]]
    train_rows: int
    steps_per_epoch: int
    teacher_epoch: Callable[[int], Iterable[Batch]]
    teacher_steps_per_epoch: int
    calibration: Callable[[], Iterable[Batch]]
    effect: Callable[[], Iterable[Batch]]
    warm: Callable[[], Iterable[Batch]]
    trial: Callable[[], Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]]
    special_ids: tuple[int, ...] = ()
    augmented: bool = False


@dataclass(frozen=True)
class Facts:
    """What a result says of its data; `validation` rows are the ones that are reported."""

    train_rows: int
    validation_rows: int
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """A recipe's data and teacher: `build` returns the model and whether its classifier is trained already.

    `keep` writes into a run what the export needs of the preprocessing (a tokenizer, the images' normalisation).
    """

    data: Data
    facts: Facts
    build: Callable[[], tuple[Any, bool]]
    keep: Callable[[Run], None]
