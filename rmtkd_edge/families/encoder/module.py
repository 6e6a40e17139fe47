"""A BERT-like encoder with free widths and a head: the one module that is trained, narrowed, folded and exported.

It computes what transformers' BERT, RoBERTa (XLM-R and CamemBERT too), DistilBERT, ELECTRA, MPNet, ALBERT and
DeBERTa-v2 classifiers compute (tests compare them), but a layer may have its own query/key, value and FFN widths, and
the residual stream need not be a multiple of the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.activations import activation
from rmtkd_edge.families.attention import attend
from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.encoder.distances import (
    DistanceEmbeddings,
    distance_scores,
    first_distance_scores,
    padding_bias,
)
from rmtkd_edge.families.encoder.embeddings import Embeddings
from rmtkd_edge.families.encoder.positions import RelativePositions
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, tap_of
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, int, float, Tensor | None], Tensor]


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Return softmax(scale q k^T + bias) v, head by head.

    q (B, Q, heads * r), k (B, T, heads * r), v (B, T, heads * p), mask bool (B, T), true where a token is, None where
    the bias tells it, bias (1 or B, 1 or heads, Q, T); returns (B, Q, heads * p).
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    allowed = None if bias is None else bias.to(q.dtype)
    if mask is not None:
        keys = mask[:, None, None, :]
        allowed = keys if allowed is None else torch.where(keys, allowed, torch.finfo(q.dtype).min)
    return attend(q, k, v, allowed, scale=scale).transpose(1, 2).flatten(2)


def pooled(state: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return the mean (B, d) of a state (B, T, d) over the tokens of a mask (B, T), or its first token (`cls`)."""
    if pooling == "cls":
        return state[:, 0]
    counted = mask[..., None].to(state.dtype)
    return (state * counted).sum(1) / counted.sum(1).clamp_min(1)


class EncoderLayer(nn.Module):
    """Attention and feed-forward network, each followed by a residual add and a norm (post-LayerNorm).

    Attributes:
        attention: of all tokens.
        first_attention: of the first token alone.
    """

    def __init__(self, spec: EncoderSpec, layer: LayerSpec, name: str) -> None:
        super().__init__()
        d, raw, heads = spec.width, spec.raw, layer.heads
        qk_raw = None if f"{name}.qk" not in raw else heads * raw[f"{name}.qk"]
        value_raw = None if f"{name}.value" not in raw else heads * raw[f"{name}.value"]
        self.heads, self.scale, self.name = heads, layer.scale, name
        self.attention: Attention = sdpa_attention
        self.first_attention: Attention = sdpa_attention
        self.activation = activation(spec.activation)
        self.query = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.key = ProjectedLinear(d, heads * layer.qk, qk_raw)
        distances = spec.disentangled
        self.c2p, self.p2c = distances is not None and distances.c2p, distances is not None and distances.p2c
        own = distances is not None and not distances.shared
        self.distance_key = ProjectedLinear(d, heads * layer.qk, qk_raw) if own and self.c2p else None
        self.distance_query = ProjectedLinear(d, heads * layer.qk, qk_raw) if own and self.p2c else None
        self.blank_padding = spec.blank_padding
        self.value = ProjectedLinear(d, heads * layer.value, value_raw)
        self.out = ProjectedLinear(heads * layer.value, d, raw.get("stream"))
        self.norm1 = nn.LayerNorm(d, eps=spec.eps)
        self.up = ProjectedLinear(d, layer.ffn, raw.get(f"{name}.ffn"))
        self.down = ProjectedLinear(layer.ffn, d, raw.get("stream"))
        self.norm2 = nn.LayerNorm(d, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)

    def attend(
        self, x: Tensor, mask: Tensor, relative: Tensor | None = None, tap: Tap | None = None, *, first: bool = False
    ) -> Tensor:
        """Return what the heads give, (B, Q, heads * p), for a state (B, T, d); `relative`: see `Encoder.distances`.

        Args:
            first: only what they give the first token: Q is 1, else T.
        """
        q, k, v = self.query(x[:, :1] if first else x), self.key(x), self.value(x)
        bias, keys = relative, None if self.blank_padding else mask
        if relative is not None and (self.c2p or self.p2c):
            scores = first_distance_scores if first else distance_scores
            met = relative[:, x.shape[1] : -1] if first else relative
            bias = scores(q, k, *self.of_distances(met, tap), self.heads, self.scale)
        elif relative is not None and first:
            bias = relative[:, :, :1]
        if self.blank_padding:
            padding = padding_bias(mask, q.dtype)
            padding = padding[:, :, :1] if first else padding
            bias = padding if bias is None else padding + bias
        attention = self.first_attention if first else self.attention
        context = attention(q, k, v, keys, self.heads, self.scale, bias)
        if tap is not None:
            for part, tensor in (("q", q), ("k", k), ("value", context)):
                tap(f"{self.name}.{part}", tensor)
        return context

    def of_distances(self, embeddings: Tensor, tap: Tap | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return keys and queries (1, n, heads * r) of the embeddings (1, n, d) of distances, None for unused ones."""
        key, query = self.distance_key or self.key, self.distance_query or self.query
        embeddings = self.dropout(embeddings)
        keys, queries = key(embeddings) if self.c2p else None, query(embeddings) if self.p2c else None
        if tap is not None:
            for part, found in (("k", keys), ("q", queries)):
                if found is not None:
                    tap(f"{self.name}.distance.{part}", found)
        return keys, queries

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        tap: Tap | None = None,
        relative: Tensor | None = None,
        *,
        first: bool = False,
    ) -> Tensor:
        """Map a state (B, T, d) to the next one; `tap(name, tensor)` sees every site on the way.

        Args:
            first: only the first token's, (B, 1, d): keys and values need all tokens, nothing else does.
        """
        context = self.attend(x, mask, relative, tap, first=first)
        x = self.norm1((x[:, :1] if first else x) + self.dropout(self.out(context)))
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

    Attributes:
        first_only: the last layer computes the first token alone where the head reads no other and nothing is tapped.
    """

    spec: EncoderSpec
    pooler: ProjectedLinear | None
    classifier: ProjectedLinear | None

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = Embeddings(spec)
        self.relative = relative_of(spec)
        self.layers: list[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(spec, s, f"layer.{i}") for i, s in enumerate(spec.layers)
        )
        self.in_order: list[EncoderLayer] = [*self.layers] * spec.repeats  # as they are run
        by_row = spec.head == "row"
        self.first_only = by_row
        self.pooler = ProjectedLinear(spec.width, spec.pooler_width, spec.raw.get("pooler")) if by_row else None
        self.pooler_activation = activation(spec.pooler_activation)
        self.classifier = None if spec.classifier is None else ProjectedLinear(*spec.classifier)
        self.dropout = nn.Dropout(spec.dropout)

    @property
    def output_layer(self) -> ProjectedLinear | None:
        """The classifier, None where an embedding is made of its outputs."""
        return None if self.spec.head == "embedding" else self.classifier

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """Return the head's outputs for token ids and mask (B, T), int64.

        They are logits (B, labels) or (B, T, labels), or embeddings (B, width).
        """
        first = self.first_only and tap is None
        state = self._run(input_ids, attention_mask, token_type_ids, tap, self.in_order, first=first)
        return self.classify(state, attention_mask, tap)

    def classify(self, state: Tensor, mask: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the head's outputs for the last state of the stream (B, T, d); a pooler reads its first token."""
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
        return self._run(input_ids, attention_mask, token_type_ids, tap, self.in_order[:layers])

    def _run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        tap: Tap | None,
        layers: Sequence[EncoderLayer],
        *,
        first: bool = False,
    ) -> Tensor:
        """Return the residual stream after these layers, (B, T, d), or its `first` token alone, (B, 1, d)."""
        mask = attention_mask.bool()
        state, relative = self.first_state(input_ids, mask, token_type_ids, tap), self.distances(input_ids)
        if tap is not None:
            tap("stream.0", state)
            if relative is not None:
                tap("relative", relative)
        for i, layer in enumerate(layers):
            seen, last = _in_pass(tap, i // len(self.layers)), i + 1 == len(layers)
            state = layer(state, mask, seen, relative, first=first and last)
            if tap is not None:
                tap(f"stream.{i + 1}", state)
        return state

    def first_state(self, ids: Tensor, mask: Tensor, types: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Return the first state of the residual stream (B, T, d)."""
        state = self.embeddings(ids, types, tap)
        return state * mask[..., None].to(state.dtype) if self.spec.blank_padding else state

    def distances(self, input_ids: Tensor) -> Tensor | None:
        """Return what the distances of tokens give to all layers, None where they give nothing.

        It is a bias of scores (1, heads, T, T), or the embeddings of distances (1, 2T + 1, d), see distances.py.
        """
        return None if self.relative is None else self.relative(input_ids)

    def set_attention(self, attention: Attention, of_first: Attention) -> None:
        """Use other implementations of attention in every layer (export emits one fused op)."""
        for layer in self.layers:
            layer.attention, layer.first_attention = attention, of_first


def relative_of(spec: EncoderSpec) -> RelativePositions | DistanceEmbeddings | None:
    """Return the module that a shape has for the distances of tokens."""
    if spec.disentangled is not None:
        return DistanceEmbeddings(spec, spec.disentangled)
    return RelativePositions(spec.layers[0].heads) if spec.relative_positions else None


def _in_pass(tap: Tap | None, number: int) -> Tap | None:
    """Return a tap that sees one pass through the layers under names of its own."""
    return None if tap is None else lambda name, value: tap(tap_of(name, number), value)
