"""One process or several: the accelerator, and each process's rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from rmtkd_edge.errors import RecipeError
from rmtkd_edge.tasks.base import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(precision: str = "no") -> Accelerator:
    """Return the accelerator on the GPU that is there, else on the CPU; `precision` is no, bf16 or fp16.

    Raises:
        RecipeError: fp16 without a GPU, which accelerate would ignore silently.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError(
            "train.precision = fp16 needs a GPU, and torch sees none", "--set train.precision=bf16, or no"
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # of an earlier compression in this process, whose precision would stay
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


def own_rows(batches: Iterable[Batch], accelerator: Accelerator) -> Iterator[Batch]:
    """Yield this process's rows (rank, rank + world, ...) of every batch, on its device.

    Every process sees the same batches in the same order; one with fewer rows than processes is given whole to none,
    so that collective calls stay in step.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    for batch in batches:
        if len(batch["index"]) >= world:
            yield {name: rows[rank::world].to(accelerator.device) for name, rows in batch.items()}


def agreed(value: float, accelerator: Accelerator) -> float:
    """Return the first process's number in all of them: what they decide by it must not differ."""
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor(value, dtype=torch.float64, device=accelerator.device)))


def mixed_seed(*parts: int) -> int:
    """Return one seed for several numbers, well mixed."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])


def total(value: float, accelerator: Accelerator) -> float:
    """Return the sum of a number over the processes."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=accelerator.device), "sum"))
