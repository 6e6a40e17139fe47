"""The rows that an export is proved, calibrated and scored on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import DataError
from rmtkd_edge.export.fold_proof import Batch, rows_of
from rmtkd_edge.families.base import Spec
from rmtkd_edge.tasks.base import Dataset, Task

BATCH = 32
HELD_OUT = 64  # rows of a user's own batches that prove and calibrate
EXAMPLE_TOKENS = 32  # of random sequences, where there are no rows at all
HELD_OUT_SALT, CALIBRATION_SALT = 5, 6  # of the recipe's seed


@dataclass(frozen=True)
class Rows:
    """Batches of rows by what they are for.

    Attributes:
        held_out: prove the fold.
        shapes: the same rows in the shapes where exports break; prove the ONNX files.
        calibration: choose the scales of int8; none of the rows that judge it.
        validation: labelled; judge int8 and fp16. Empty where there are no labels.
        test: labelled; only reported. Empty where there is none.
    """

    held_out: Sequence[Batch]
    shapes: Sequence[Batch]
    calibration: Sequence[Batch]
    validation: Sequence[Batch]
    test: Sequence[Batch]


def rows_of_dataset(task: Task[Any], dataset: Dataset[Any], recipe: Recipe, spec: Spec) -> Rows:
    """Return the rows of a recipe's data set; raise DataError where they are not those of the model."""
    if tuple(dataset.labels) != tuple(spec.labels):
        raise DataError(
            f"the data have the labels {list(dataset.labels)}, the model {list(spec.labels)}",
            "give the data that compress used: --data",
        )

    def ordered(split: Any) -> list[Batch]:
        return list(task.batches(dataset, split, BATCH, None))

    def sampled(split: Any, salt: int) -> list[Batch]:
        count = min(recipe.export.verify_rows, len(split))
        rows = np.random.default_rng([recipe.seed, salt]).permutation(len(split))[:count]
        return ordered(split.take(np.sort(rows)))

    held_out = sampled(dataset.validation, HELD_OUT_SALT)
    check_inputs(held_out, spec, "give the data that compress used: --data")
    return Rows(
        held_out=held_out,
        shapes=task.verification_batches(held_out, spec, dataset.max_length),
        calibration=sampled(dataset.train, CALIBRATION_SALT),
        validation=ordered(dataset.validation),
        test=[] if dataset.test is None else ordered(dataset.test),
    )


def rows_of_loader(task: Task[Any], loader: Iterable[Batch] | None, spec: Spec) -> Rows:
    """Return a user's own batches: the first 64 rows prove and calibrate, the rest, where labelled, are scored.

    Without a loader random inputs prove the export; nothing is calibrated or scored then.
    """
    if loader is None:
        inputs = spec.example_inputs(BATCH, spec.max_length and min(spec.max_length, EXAMPLE_TOKENS), 0)
        held_out: list[Batch] = [{name: torch.from_numpy(value) for name, value in inputs.items()}]
        return Rows(held_out, task.verification_batches(held_out, spec), [], [], [])
    batches = iter(loader)
    held_out = list(_first(batches, HELD_OUT))
    check_inputs(held_out, spec, "give the model's inputs by name: loader=[{...}]")
    shapes = task.verification_batches(held_out, spec)
    rest = list(batches)
    return Rows(
        held_out, shapes, held_out, rest if rest and all(name in rest[0] for name in task.target_names) else [], []
    )


def check_inputs(batches: Sequence[Batch], spec: Spec, hint: str) -> None:
    """Raise DataError where batches lack an input of the model, or have one of another size."""
    for item, batch in ((item, batch) for batch in batches for item in spec.inputs):
        if item.name not in batch:
            raise DataError(f"the batches have no `{item.name}` (they have {', '.join(batch)})", hint)
        found = tuple(batch[item.name].shape)
        fits = [wanted == size or isinstance(wanted, str) for size, wanted in zip(found, item.shape, strict=False)]
        if len(found) != len(item.shape) or not all(fits):
            raise DataError(f"`{item.name}` is {found}, the model reads {item.shape}", hint)


def _first(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        rows -= rows_of(batch)
        if rows <= 0:
            return
