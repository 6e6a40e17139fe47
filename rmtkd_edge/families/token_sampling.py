"""Which tokens of a sequence are looked at, at which depth of the stream, and how many layers have to run for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.families.base import Site
from rmtkd_edge.spectral.seeded import row_uniform

Batch = Mapping[str, Tensor]
SMALLEST_PART = 16  # sequences that are run together when they need fewer layers than the rest of their batch


def by_depth(batch: Batch, sites: Sequence[Site], depths: int, seed: int) -> Iterator[tuple[Batch, int | None]]:
    """Yield parts of a batch and how many layers each has to run to show `sites` (None: all of them and the pooler).

    A sequence shows the stream at one depth alone, so half of them need less than half of the layers.
    """
    kinds = {site.kind for site in sites}
    if "pooler" in kinds:
        yield batch, None
        return
    needed = np.full(len(batch["index"]), max((site.layer + 1 for site in sites if site.layer is not None), default=0))
    if "stream" in kinds:
        needed = np.maximum(needed, stream_depth(batch["index"].cpu().numpy(), depths, seed))
    order = np.argsort(needed, kind="stable")
    parts = 1 if needed.min() == needed.max() else max(len(order) // SMALLEST_PART, 1)
    for rows in np.array_split(order, parts):
        yield {name: values[torch.from_numpy(np.sort(rows))] for name, values in batch.items()}, int(needed[rows].max())


def stream_depth(index: np.ndarray, depths: int, seed: int) -> np.ndarray:
    """Return the depth, 0 .. depths - 1, at which each sequence shows the stream, by the sequence's own number."""
    return (row_uniform(seed + 1, index, 1)[:, 0] * depths).astype(np.int64)


@dataclass(frozen=True)
class Picked:
    """Sampled tokens of a batch: row, column and depth of each, and the number of its sequence in the data set."""

    rows: np.ndarray
    columns: np.ndarray
    depths: np.ndarray
    sequences: np.ndarray


def pick_tokens(valid: np.ndarray, index: np.ndarray, depths: int, options: Analyse, seed: int) -> Picked:
    """Return random valid tokens of each sequence (or its first token), drawn by the sequence's own number."""
    depth = stream_depth(index, depths, seed)
    rows = np.arange(len(valid))
    if options.sample == "sequence":
        return Picked(rows, np.zeros_like(rows), depth, index)
    keys = np.where(valid, row_uniform(seed, index, valid.shape[1]), -1.0)
    order = np.argsort(-keys, axis=1)[:, : options.tokens_per_sequence]
    taken = np.take_along_axis(keys, order, 1) >= 0
    rows, place = np.nonzero(taken)
    return Picked(rows, order[rows, place], depth[rows], index[rows])
