"""The task `digit-parity`: is a handwritten digit even or odd? Reads images as image classification does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rmtkd_edge.tasks.base import find_task


class DigitParity(type(find_task("image-classification"))):  # type: ignore[misc]
    """Image classification whose labels are the parity of the data's own."""

    name = "digit-parity"

    def load(self, recipe: Any, data: Any, **options: Any) -> Any:
        dataset = super().load(recipe, data, **options)
        parity = np.array([int(label) % 2 for label in dataset.labels])

        def renamed(split: Any) -> Any:
            return None if split is None else replace(split, labels=parity[split.labels])

        splits = {part: renamed(getattr(dataset, part)) for part in ("train", "validation", "test")}
        return replace(dataset, labels=("even", "odd"), **splits)


TASK = DigitParity()
