"""The null of the rule `parallel`: data whose signs are flipped at random, block by block and feature by feature."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral.seeded import row_uniform


def sign_flipped(x: Tensor, block_ids: Tensor, seed: int) -> Tensor:
    """Return rows `x` (n, d) with random signs, one for each block and feature; `block_ids` (n,) integers.

    A sign for a whole feature, or for a whole row, would leave the spectrum of X X^T as it is. Drawn independently
    per feature, constant within a block, they keep every feature's variance and the dependence within blocks
    (sentences, images), and destroy what features share. They are functions of seed and block id: it does not matter
    in which batches, or by which process, the rows come.
    """
    if x.ndim != 2 or block_ids.shape != (len(x),):
        raise DataError(f"Expected rows (n, d) and block_ids (n,), got {tuple(x.shape)} and {tuple(block_ids.shape)}.")
    signs = torch.from_numpy(row_uniform(seed, block_ids.cpu().numpy(), x.shape[1]) < 0.5) * 2 - 1
    return x * signs.to(device=x.device, dtype=x.dtype)
