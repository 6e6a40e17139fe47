"""One process or several: the accelerator, and each process's rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.errors import RecipeError

Batch = dict[str, Tensor]


def make_accelerator(precision: str) -> Any:
    """Return an accelerate.Accelerator on the GPU that is there, else on the CPU; `precision` is no, bf16 or fp16.

    Raises RecipeError for fp16 without a GPU, which accelerate would leave out without a word.
    """
    from accelerate import Accelerator

    if precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError(
            "train.precision = fp16 needs a GPU, and torch sees none", "--set train.precision=bf16, or no"
        )
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


def own_rows(batches: Iterable[Batch], accelerator: Any) -> Iterator[Batch]:
    """Yield this process's rows (rank, rank + world, ...) of every batch, on its device.

    Every process sees the same batches in the same order; one with fewer rows than processes is given whole to none,
    so that collective calls stay in step.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    for batch in batches:
        if len(batch["labels"]) >= world:
            yield {k: v[rank::world].to(accelerator.device) for k, v in batch.items() if v is not None}


def agreed(value: float, accelerator: Any) -> float:
    """Return the first process's number in all of them: what they decide by it must not differ."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor(value, dtype=torch.float64, device=accelerator.device)))


def mixed_seed(*parts: int) -> int:
    """Return one seed for several numbers, well mixed."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])


def total(value: float, accelerator: Any) -> float:
    """Return the sum of a number over the processes."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=accelerator.device), "sum"))
