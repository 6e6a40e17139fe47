"""The batches that a compression needs, whatever the family."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rmtkd_edge.compress.parallel import Batch


@dataclass(frozen=True)
class Data:
    """The batches a compression needs, as functions that start anew at every call (`index` is the row's number)."""

    train_epoch: Callable[[int, int], Iterable[Batch]]
    train_rows: int
    steps_per_epoch: int
    calibration: Callable[[], Iterable[Batch]]
    effect: Callable[[], Iterable[Batch]]
    warm: Callable[[], Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]]
    special_ids: tuple[int, ...]
