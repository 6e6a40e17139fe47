"""A BERT-like encoder with free widths and a head: the one module that is trained, narrowed, folded and exported.

It computes what transformers' BERT, RoBERTa (XLM-R and CamemBERT too), DistilBERT, ELECTRA, MPNet and ALBERT
classifiers compute (tests compare them), but a layer may have its own query/key, value and FFN widths, and the residual
stream need not be a multiple of the heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.activations import activation
from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.encoder.positions import RelativePositions
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, tap_of
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, int, float, Tensor | None], Tensor]


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Return softmax(scale q k^T + bias) v, head by head.

    q, k (B, T, heads * r), v (B, T, heads * p), mask bool (B, T), true where a token is, bias (1, heads, T, T); returns
    (B, T, heads * p).
    """
    batch, length = mask.shape
    q, k, v = (x.view(batch, length, heads, -1).transpose(1, 2) for x in (q, k, v))
    allowed = mask[:, None, None, :]
    if bias is not None:
        allowed = torch.where(allowed, bias.to(q.dtype), torch.finfo(q.dtype).min)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
    return out.transpose(1, 2).reshape(batch, length, -1)


def pooled(state: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return the mean (B, d) of a state (B, T, d) over the tokens of a mask (B, T), or its first token (`cls`)."""
    if pooling == "cls":
        return state[:, 0]
    counted = mask[..., None].to(state.dtype)
    return (state * counted).sum(1) / counted.sum(1).clamp_min(1)


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
        self.position = nn.Embedding(spec.positions, wide)
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
        if self.position_offset:
            real = (ids != self.pad_id).long()
            positions = torch.cumsum(real, 1) * real + self.pad_id
        else:
            positions = torch.arange(ids.shape[1], device=ids.device)
        total = self.word_states(ids, tap) + self.position(positions)
        if self.token_type is not None:
            if types is not None and len(self.token_type.weight) < 2:
                types = None  # a pair's second type has no embedding of its own (RoBERTa)
            total = total + self.token_type(torch.zeros_like(ids) if types is None else types)
        return total if self.projection is None else total @ self.projection.T

    def forward(self, ids: Tensor, types: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Map token and type ids (B, T) to the first state of the residual stream."""
        state = self.dropout(self.norm(self.summed(ids, types, tap)))
        return state if self.project is None else self.project(state)


class EncoderLayer(nn.Module):
    """Attention and feed-forward network, each followed by a residual add and a norm (post-LayerNorm)."""

    def __init__(self, spec: EncoderSpec, layer: LayerSpec, name: str) -> None:
        super().__init__()
        d, raw, heads = spec.width, spec.raw, layer.heads
        qk_raw = None if f"{name}.qk" not in raw else heads * raw[f"{name}.qk"]
        value_raw = None if f"{name}.value" not in raw else heads * raw[f"{name}.value"]
        self.heads, self.scale, self.name = heads, layer.scale, name
        self.attention: Attention = sdpa_attention
        self.activation = activation(spec.activation)
        self.query = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.key = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.value = ProjectedLinear(d, heads * layer.value, value_raw)
        self.out = ProjectedLinear(heads * layer.value, d, raw.get("stream"))
        self.norm1 = nn.LayerNorm(d, eps=spec.eps)
        self.up = ProjectedLinear(d, layer.ffn, raw.get(f"{name}.ffn"))
        self.down = ProjectedLinear(layer.ffn, d, raw.get("stream"))
        self.norm2 = nn.LayerNorm(d, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor, mask: Tensor, tap: Tap | None = None, bias: Tensor | None = None) -> Tensor:
        """Map a state (B, T, d) to the next one; `tap(name, tensor)` sees every site on the way."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        context = self.attention(q, k, v, mask, self.heads, self.scale, bias)
        if tap is not None:
            for part, tensor in (("q", q), ("k", k), ("value", context)):
                tap(f"{self.name}.{part}", tensor)
        x = self.norm1(x + self.dropout(self.out(context)))
        inner = self.up(x)
        hidden = self.activation(inner)
        if tap is not None:
            tap(f"{self.name}.mid", x)
            tap(f"{self.name}.ffn", inner)
        return self.norm2(x + self.dropout(self.down(hidden)))


class Encoder(Model):
    """Embeddings, layers, and a head.

    For rows it is a dense pooler on the first token and a linear classifier, for tokens the classifier alone; of an
    embedding `classifier` is the map to its width, which there is where the stream is narrower.
    """

    spec: EncoderSpec
    pooler: ProjectedLinear | None
    classifier: ProjectedLinear | None

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = Embeddings(spec)
        self.relative = RelativePositions(spec.layers[0].heads) if spec.relative_positions else None
        self.layers: list[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(spec, s, f"layer.{i}") for i, s in enumerate(spec.layers)
        )
        self.in_order: list[EncoderLayer] = [*self.layers] * spec.repeats  # as they are run
        by_row = spec.head == "row"
        self.pooler = ProjectedLinear(spec.width, spec.pooler_width, spec.raw.get("pooler")) if by_row else None
        self.pooler_activation = activation(spec.pooler_activation)
        self.classifier = None if spec.classifier is None else ProjectedLinear(*spec.classifier)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """Return the head's outputs for token ids and mask (B, T), int64.

        They are logits (B, labels) or (B, T, labels), or embeddings (B, width).
        """
        state = self.states(input_ids, attention_mask, token_type_ids, tap)
        return self.classify(state, attention_mask, tap)

    def classify(self, state: Tensor, mask: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the head's outputs for the last state of the stream (B, T, d)."""
        if self.pooler is None:
            found = self.classified(self.dropout(state))
            return self.embed(found, mask) if self.spec.head == "embedding" else found
        inner = self.pooler(self.dropout(state[:, 0]))
        if tap is not None:
            tap("pooler", inner)
        return self.classified(self.dropout(self.pooler_activation(inner)))

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the embeddings (B, width) of rows whose tokens have these (B, T, width)."""
        embedding = pooled(tokens, mask, self.spec.pooling)
        return F.normalize(embedding, dim=-1) if self.spec.normalised else embedding

    def classified(self, x: Tensor) -> Tensor:
        """Return (..., d) as the last linear layer gives it, as it is where there is none."""
        return x if self.classifier is None else self.classifier(x)

    def states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tap: Tap | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """Return the residual stream (B, T, d) after the last layer, or after the first `layers` that are run."""
        mask = attention_mask.bool()
        state, bias = self.embeddings(input_ids, token_type_ids, tap), self.bias(input_ids)
        if tap is not None:
            tap("stream.0", state)
            if bias is not None:
                tap("bias", bias)
        for i, layer in enumerate(self.in_order[:layers]):
            state = layer(state, mask, _in_pass(tap, i // len(self.layers)), bias)
            if tap is not None:
                tap(f"stream.{i + 1}", state)
        return state

    def bias(self, input_ids: Tensor) -> Tensor | None:
        """Return what relative positions add to the scores of every layer, (1, heads, T, T); None without them."""
        return None if self.relative is None else self.relative(input_ids)

    def set_attention(self, attention: Attention) -> None:
        """Use another implementation of attention in every layer (export emits one fused op)."""
        for layer in self.layers:
            layer.attention = attention


def _in_pass(tap: Tap | None, number: int) -> Tap | None:
    """Return a tap that sees one pass through the layers under names of its own."""
    return None if tap is None else lambda name, value: tap(tap_of(name, number), value)
