"""Least squares of a depthwise convolution: every channel by itself, from its own patches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rmtkd_edge.families.convolution import ProjectedConv, patches
from rmtkd_edge.spectral.moments import reduced


def fit_depthwise(
    conv: ProjectedConv, pairs: Iterable[tuple[Tensor, Tensor]], count: int, ridge: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return weight (k, 1, h, w) and bias (k,), float64, that map each channel's patches to its target.

    Args:
        pairs: inputs and targets (B, k, H, W).
        count: places of a pair that are looked at.
        ridge: of the mean square of a channel's patches.
    """
    channels, taps = len(conv.weight), conv.weight[0].numel()
    size = taps + 1  # the last input is 1
    sums = [torch.zeros(channels, size, size, dtype=torch.float64), torch.zeros(channels, size, 1, dtype=torch.float64)]
    total = 0.0
    for number, (x, target) in enumerate(pairs):
        read, wanted = patches(conv, x, target, count, seed + number)
        rows = read.double().reshape(len(read), channels, taps).transpose(0, 1)
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], 2)
        sums = [total_.to(rows) for total_ in sums]
        sums[0] += rows.mT @ rows
        sums[1] += rows.mT @ wanted.double().T[..., None]
        total += len(read)
    total, (gram, cross) = reduced(total, sums)
    gram, cross = gram / total, cross / total
    diagonal = gram.diagonal(dim1=1, dim2=2)[:, :taps]
    penalty = torch.zeros_like(gram.diagonal(dim1=1, dim2=2))
    penalty[:, :taps] = ridge * diagonal.mean(1, keepdim=True)
    solved = torch.linalg.lstsq((gram + torch.diag_embed(penalty)).cpu(), cross.cpu(), driver="gelsd").solution[..., 0]
    return solved[:, :taps].reshape(conv.weight.shape), solved[:, taps]
