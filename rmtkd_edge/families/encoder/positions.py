"""Relative positions: what the distance of two tokens adds to their attention score (MPNet; Raffel et al. 2020, T5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rmtkd_edge.families.encoder.spec import RELATIVE_BUCKETS

BUCKETS, FARTHEST = RELATIVE_BUCKETS, 128
EXACT = BUCKETS // 4  # distances below it have a bucket of their own, on either side


def bucket_of_distance() -> list[int]:
    """Return the bucket of every distance, key minus query, from -FARTHEST to FARTHEST; beyond, it is that of the end.

    The logarithm is torch's, on the CPU, as in transformers: at powers of two another one may round to the bucket
    before, so that a graph gets these numbers and not their computation.
    """
    distance = torch.arange(-FARTHEST, FARTHEST + 1, device="cpu")
    n, half = distance.abs(), BUCKETS // 2
    log = torch.log(n.clamp_min(1).float() / EXACT) / math.log(FARTHEST / EXACT) * (half - EXACT)
    far = (EXACT + log.long()).clamp_max(half - 1)
    return (torch.where(n < EXACT, n, far) + half * (distance > 0)).tolist()


class RelativePositions(nn.Module):
    """A bias of every head for every bucket of distances, the same in all layers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, heads)
        self.buckets = bucket_of_distance()  # no buffer: a model that is assembled has its parameters' tensors alone

    def forward(self, ids: Tensor) -> Tensor:
        """Return the bias (1, heads, T, T) of the scores of token ids (B, T)."""
        place = torch.arange(ids.shape[1], device=ids.device)
        distance = (place[None, :] - place[:, None]).clamp(-FARTHEST, FARTHEST)
        bucket = torch.tensor(self.buckets, device=ids.device)[distance + FARTHEST]
        return self.table(bucket).permute(2, 0, 1)[None]
