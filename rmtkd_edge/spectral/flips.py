"""The null of the rule `parallel`: data whose signs are flipped at random, block by block and feature by feature."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError
from rmtkd_edge.spectral.edge import fit_edge
from rmtkd_edge.spectral.eigen import eigh_descending
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


def null_spectra(x: Tensor, block_ids: Tensor, draws: int, seed: int) -> Tensor:
    """Return (draws, d) float64 eigenvalues, descending, of the second moments of sign-flipped rows `x` (n, d)."""
    rows, out = x.to(torch.float64), []
    for draw in range(draws):
        flipped = sign_flipped(rows, block_ids, seed * draws + draw)
        out.append(eigh_descending(flipped.T @ flipped / len(flipped))[0])
    return torch.stack(out).cpu()


def deflated_rank(x: Tensor, block_ids: Tensor, *, draws: int = 10, seed: int = 0, level: float = 0.95) -> int:
    """Return the number of directions of rows `x` (n, d) that beat the sign-flipped null, by deflation in the data.

    Accepted directions are taken out of x and the rest is flipped afresh, until nothing more is accepted: what the rule
    `parallel` only approximates from spectra. Cost: draws + 1 decompositions a round. Dobriban and Owen 2019.
    """
    rows, rank = x.to(torch.float64), 0
    energy = float((rows * rows).sum())
    while rank < min(rows.shape) and float((rows * rows).sum()) > 1e-12 * energy:
        values, vectors = eigh_descending(rows.T @ rows / len(rows))
        # The flips spread the energy of the d - rank directions left over all d again.
        null = null_spectra(rows, block_ids, draws, seed + rank).numpy() * (rows.shape[1] / (rows.shape[1] - rank))
        more = fit_edge(
            values.cpu().numpy(), len(rows), rule="parallel", null_eigenvalues=null, margin_level=level
        ).rank
        if more == 0:
            break
        rows = rows - (rows @ vectors[:more].T) @ vectors[:more]
        rank += more
    return rank
