"""Least squares of a depthwise convolution: every channel by itself, from its own patches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.map_sample import MapSample
from rmtkd_edge.spectral.moments import reduced


def fit_depthwise(
    conv: ProjectedConv, pairs: Iterable[tuple[Tensor, MapSample]], ridge: float
) -> tuple[Tensor, Tensor]:
    """Return weight (k, 1, h, w) and bias (k,), float64, that map each channel's patches to its target.

    Args:
        pairs: inputs (B, k, H, W) and targets.
        ridge: of the mean square of a channel's patches.
    """
    channels, taps = len(conv.weight), conv.weight[0].numel()
    size = taps + 1  # the last input is 1
    sums = [torch.zeros(channels, size, size, dtype=torch.float64), torch.zeros(channels, size, 1, dtype=torch.float64)]
    total = 0.0
    for x, target in pairs:
        read = target.patches(conv, x)
        rows = read.double().reshape(len(read), channels, taps).transpose(0, 1)
        rows = torch.cat([rows, torch.ones_like(rows[..., :1])], 2)
        sums = [total_.to(rows) for total_ in sums]
        sums[0] += rows.mT @ rows
        sums[1] += rows.mT @ target.values.double().T[..., None]
        total += len(read)
    total, (gram, cross) = reduced(total, sums)
    gram, cross = gram / total, cross / total
    diagonal = gram.diagonal(dim1=1, dim2=2)[:, :taps]
    penalty = torch.zeros_like(gram.diagonal(dim1=1, dim2=2))
    penalty[:, :taps] = ridge * diagonal.mean(1, keepdim=True)
    solved = torch.linalg.lstsq((gram + torch.diag_embed(penalty)).cpu(), cross.cpu(), driver="gelsd").solution[..., 0]
    return solved[:, :taps].reshape(conv.weight.shape), solved[:, taps]
