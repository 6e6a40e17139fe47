"""The first state of the residual stream: the embeddings of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.families.layers import ProjectedLinear


class Embeddings(nn.Module):
    """Word, position and type embeddings, their norm, and ELECTRA's linear map from a smaller embedding width.

    `expand` maps a word table of a width of its own, cut by the fixed `table_projection`, to the others' width.
    """

    projection: Tensor | None
    table_projection: Tensor | None

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        raw = spec.raw.get("stream")
        width = spec.embedding_size or spec.width
        wide = raw if raw is not None and spec.embedding_size is None else width
        self.pad_id, self.position_offset = spec.pad_id, spec.position_offset
        rank = spec.embedding_rank
        raw_rank = spec.raw.get("embedding") if rank is not None else None
        self.word = nn.Embedding(spec.vocab, raw_rank or rank or wide)
        table = None if raw_rank is None or rank is None else torch.empty(rank, raw_rank)
        self.register_buffer("table_projection", table)
        self.expand = None if rank is None else ProjectedLinear(rank, wide)
        self.position = nn.Embedding(spec.positions, wide) if spec.position_table else None
        self.token_type = nn.Embedding(spec.type_vocab, wide) if spec.type_vocab else None
        self.norm = nn.LayerNorm(width, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)
        self.register_buffer("projection", None if wide == width else torch.empty(width, wide))
        self.project = None if spec.embedding_size is None else ProjectedLinear(spec.embedding_size, spec.width, raw)

    def word_states(self, ids: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the word embeddings (B, T, width); `tap` sees what the table gives."""
        found = self.word(ids)
        if self.table_projection is not None:
            found = found @ self.table_projection.T
        if tap is not None:
            tap("embedding", found)
        return found if self.expand is None else self.expand(found)

    def summed(self, ids: Tensor, types: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Return the sum of the embeddings before the norm, (B, T, width)."""
        total = self.word_states(ids, tap)
        if self.position is not None:
            total = total + self.position(self.positions(ids))
        if self.token_type is not None:
            if types is not None and len(self.token_type.weight) < 2:
                types = None  # a pair's second type has no embedding of its own (RoBERTa)
            total = total + self.token_type(torch.zeros_like(ids) if types is None else types)
        return total if self.projection is None else total @ self.projection.T

    def positions(self, ids: Tensor) -> Tensor:
        """Return the position of every token, (T,) or (B, T)."""
        if not self.position_offset:
            return torch.arange(ids.shape[1], device=ids.device)
        real = (ids != self.pad_id).long()
        return torch.cumsum(real, 1) * real + self.pad_id

    def forward(self, ids: Tensor, types: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Map token and type ids (B, T) to the first state of the residual stream."""
        state = self.dropout(self.norm(self.summed(ids, types, tap)))
        return state if self.project is None else self.project(state)
