"""Disentangled attention: tokens look at distances, and distances at tokens (DeBERTa; He et al. 2021).

With q_i, k_j of tokens and p_q(d), p_k(d) of the distance d = i - j, the score is q_i k_j + q_i p_k(d) + p_q(d) k_j.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmtkd_edge.families.encoder.spec import Disentangled, EncoderSpec


def row_of_distance(shape: Disentangled, longest: int) -> list[int]:
    """Return the table's row for every distance, query minus key, from -longest to longest.

    The logarithm is torch's, on the CPU, as in transformers, see positions.py.
    """
    distance = torch.arange(-longest, longest + 1, device="cpu")
    bucket = distance
    if shape.buckets > 0:
        middle = shape.buckets // 2
        near = (distance < middle) & (distance > -middle)
        size = torch.where(near, middle - 1, distance.abs())
        steps = torch.log(torch.tensor((shape.farthest - 1) / middle, device="cpu"))
        far = torch.ceil(torch.log(size / middle) / steps * (middle - 1)) + middle
        bucket = torch.where(size <= middle, distance.float(), far * distance.sign()).long()
    return (bucket + shape.span).clamp(0, 2 * shape.span - 1).tolist()


class DistanceEmbeddings(nn.Module):
    """The table of distances, which all layers share; it lives in the stream's space and is projected with it."""

    projection: Tensor | None

    def __init__(self, spec: EncoderSpec, shape: Disentangled) -> None:
        super().__init__()
        raw = spec.raw.get("stream")
        self.embeddings = nn.Embedding(2 * shape.span, spec.width if raw is None else raw)
        self.register_buffer("projection", None if raw is None else torch.empty(spec.width, raw))
        self.longest = spec.max_length
        self.rows = row_of_distance(shape, self.longest)  # no buffer, see positions.py

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (1, 2T + 1, d) of the distances T, T - 1, ..., -T for token ids (B, T)."""
        length = ids.shape[1]
        distance = length - torch.arange(2 * length + 1, device=ids.device)
        found = self.embeddings(torch.tensor(self.rows).to(ids.device)[distance + self.longest])[None]
        return found if self.projection is None else found @ self.projection.T


def distance_scores(
    q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Return what distances add to the scores, (B, heads, T, T).

    q, k (B, T, heads * r) are of tokens; keys, queries (1, 2T + 1, heads * r) of the distances T, ..., -T, None for
    those that no score has.
    """
    found = []
    if keys is not None:
        found.append(_shifted(per_head(q * scale, heads) @ per_head(keys[:, 1:], heads).mT))
    if queries is not None:
        turned = per_head(queries[:, :-1].flip(1) * scale, heads)
        found.append(_shifted(per_head(k, heads) @ turned.mT).mT)
    return found[0] if len(found) == 1 else found[0] + found[1]


def first_distance_scores(
    q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None, heads: int, scale: float
) -> Tensor:
    """Return what distances add to the scores of the first token, (B, heads, 1, T).

    q is (B, 1, heads * r), and the T distances are 0, -1, ..., 1 - T; else as `distance_scores`.
    """
    found = []
    if keys is not None:
        found.append(per_head(q * scale, heads) @ per_head(keys, heads).mT)
    if queries is not None:
        found.append((per_head(k, heads) * per_head(queries * scale, heads)).sum(-1)[:, :, None])
    return found[0] if len(found) == 1 else found[0] + found[1]


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what padding adds to the scores, (B, 1, T, T), for a mask (B, T).

    A padded query attends to all keys alike, padded or not, as in transformers. Half of the least number stays finite
    with a score added, in fp16 too.
    """
    both = mask[:, None, :, None] & mask[:, None, None, :]
    least = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min) / 2
    return torch.where(both, 0.0, least).to(dtype)


def per_head(x: Tensor, heads: int) -> Tensor:
    """Return (B, T, heads * r) as (B, heads, T, r)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _shifted(x: Tensor) -> Tensor:
    """Return (B, heads, T, T) of (B, heads, T, 2T): entry (i, j) is that of column j - i + T - 1.

    Row i begins i places further left in the flat tensor where rows are one shorter (as in Transformer-XL).
    """
    length = x.shape[2]
    flat = x.flatten(2)[..., length - 1 : -1]
    return flat.unflatten(2, (length, 2 * length - 1))[..., :length]
