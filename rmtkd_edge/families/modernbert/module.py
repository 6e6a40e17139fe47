"""A ModernBERT sequence classifier with free widths: the one module that is trained, narrowed, folded and exported.

It computes what transformers' ModernBertForSequenceClassification computes (tests compare them) with all tokens in
place, padding too: pre-norm layers, rotary positions, attention over all tokens or over a window, gated FFNs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.activations import activation
from rmtkd_edge.families.attention import attend
from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.modernbert.spec import LayerSpec, ModernBertSpec

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines (T, r / 2) of the angles that positions turn pairs of channels by."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn queries or keys (B, heads, T, r); channel j makes a pair with j + r / 2."""
        a, b = x.chunk(2, -1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


@dataclass(frozen=True)
class Context:
    """What all layers of a kind share: which keys (B, 1, 1 or T, T) are looked at, bool, and the rotation."""

    allowed: Tensor
    rotation: Rotation


def rotation(length: int, width: int, theta: float, like: Tensor) -> Rotation:
    """Return the rotation of positions 0 .. length - 1 for heads of a width, in float32."""
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=like.device) / width)
    angles = torch.arange(length, device=like.device)[:, None].float() * frequencies
    return Rotation(angles.cos(), angles.sin())


def bias_of(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: a padded token whose window holds none attends to all alike, and stays finite."""
    least = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    return torch.where(allowed, 0.0, least).to(dtype)


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q k^T) v over the allowed keys; q, k (B, heads, T, r), v (B, heads, T, p)."""
    return attend(q, k, v, bias_of(allowed, q.dtype), scale=scale)


class Linear(nn.Linear):
    """A linear layer, its bias optional, with a fixed projection after it where its output site was cut."""

    projection: Tensor | None

    def __init__(self, inputs: int, outputs: int, bias: bool, raw: int | None = None) -> None:
        super().__init__(inputs, outputs if raw is None else raw, bias)
        self.register_buffer("projection", None if raw is None else torch.empty(outputs, raw))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., k)."""
        p, bias = self.projection, self.bias
        if p is None:
            return F.linear(x, self.weight, bias)
        return F.linear(x, p @ self.weight, None if bias is None else p @ bias)


class Embeddings(nn.Module):
    """The word table and its norm; positions are in the attention."""

    projection: Tensor | None

    def __init__(self, spec: ModernBertSpec) -> None:
        super().__init__()
        raw = spec.raw.get("stream")
        self.word = nn.Embedding(spec.vocab, spec.width if raw is None else raw)
        self.register_buffer("projection", None if raw is None else torch.empty(spec.width, raw))
        self.norm = norm_of(spec, spec.width)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids (B, T) to the first state of the residual stream."""
        found = self.word(ids)
        return self.dropout(self.norm(found if self.projection is None else found @ self.projection.T))


class Layer(nn.Module):
    """Attention and gated feed-forward network, each on the normalised stream and added to it (pre-LayerNorm)."""

    def __init__(self, spec: ModernBertSpec, layer: LayerSpec, name: str) -> None:
        super().__init__()
        d, raw, heads = spec.width, spec.raw, layer.heads
        value_raw = None if f"{name}.value" not in raw else heads * raw[f"{name}.value"]
        self.heads, self.local, self.scale, self.name = heads, layer.local, layer.head**-0.5, name
        self.attention: Attention = sdpa_attention
        self.activation = activation(spec.activation)
        self.norm1 = norm_of(spec, d) if layer.normed else nn.Identity()
        self.query = Linear(d, heads * layer.head, spec.attention_bias)
        self.key = Linear(d, heads * layer.head, spec.attention_bias)
        self.value = Linear(d, heads * layer.value, spec.attention_bias, value_raw)
        self.out = Linear(heads * layer.value, d, spec.attention_bias, raw.get("stream"))
        self.norm2 = norm_of(spec, d)
        self.up = Linear(d, layer.ffn, spec.ffn_bias, raw.get(f"{name}.ffn"))
        self.gate = Linear(d, layer.ffn, spec.ffn_bias, raw.get(f"{name}.ffn"))
        self.down = Linear(layer.ffn, d, spec.ffn_bias, raw.get("stream"))
        self.dropout = nn.Dropout(spec.dropout)

    def attend(self, x: Tensor, context: Context, *, first: bool = False) -> Tensor:
        """Return what the heads give, (B, Q, heads * p), for a normalised state (B, T, d).

        Args:
            first: only what they give the first token, which no rotation turns: Q is 1, else T.
        """
        read = {self.query: x[:, :1] if first else x, self.key: x, self.value: x}
        q, k, v = (linear(at).unflatten(2, (self.heads, -1)).transpose(1, 2) for linear, at in read.items())
        q, k = q if first else context.rotation(q), context.rotation(k)
        allowed = context.allowed[:, :, :1] if first else context.allowed
        return self.attention(q, k, v, allowed, self.scale).transpose(1, 2).flatten(2)

    def inner(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the inner state of the feed-forward network, (B, T, m), for a normalised state (B, T, d)."""
        up, gate = self.up(x), self.gate(x)
        hidden = self.activation(up) * gate
        if tap is not None:
            for part, tensor in (("up", up), ("gate", gate), ("ffn", hidden)):
                tap(f"{self.name}.{part}", tensor)
        return hidden

    def forward(
        self, x: Tensor, contexts: tuple[Context, Context], tap: Tap | None = None, *, first: bool = False
    ) -> Tensor:
        """Map a state (B, T, d) to the next one; `contexts` are those of global and of local attention.

        Args:
            first: only the first token's, (B, 1, d): keys and values need all tokens, nothing else does.
        """
        heads = self.attend(self.norm1(x), contexts[self.local], first=first)
        if tap is not None:
            tap(f"{self.name}.value", heads)
        x = (x[:, :1] if first else x) + self.dropout(self.out(heads))
        return x + self.down(self.dropout(self.inner(self.norm2(x), tap)))


class ModernBert(Model):
    """The classifier: embeddings, layers, a norm, a dense pooler with a norm of its own, a linear classifier."""

    spec: ModernBertSpec

    def __init__(self, spec: ModernBertSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = Embeddings(spec)
        self.layers: list[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(spec, layer, f"layer.{i}") for i, layer in enumerate(spec.layers)
        )
        self.norm = norm_of(spec, spec.width)
        self.pooler = Linear(spec.width, spec.pooler_width, spec.pooler_bias, spec.raw.get("pooler"))
        self.pooler_activation = activation(spec.pooler_activation)
        self.pooler_norm = norm_of(spec, spec.pooler_width)
        self.classifier = ProjectedLinear(spec.pooler_width, len(spec.labels))
        self.dropout = nn.Dropout(spec.dropout)

    def contexts(self, mask: Tensor) -> tuple[Context, Context]:
        """Return what the layers of global and of local attention share, for a mask (B, T)."""
        spec, length = self.spec, mask.shape[1]
        keys, place = mask.bool()[:, None, None, :], torch.arange(length, device=mask.device)
        near = (place[:, None] - place[None, :]).abs() <= spec.window
        turns = (rotation(length, spec.layers[0].head, t, mask) for t in (spec.global_theta, spec.local_theta))
        return Context(keys, next(turns)), Context(keys & near, next(turns))

    @property
    def output_layer(self) -> ProjectedLinear:
        """The classifier."""
        return self.classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tap: Tap | None = None) -> Tensor:
        """Return logits (B, labels) for token ids and mask (B, T), int64."""
        contexts = self.contexts(attention_mask)
        state = self.embeddings(input_ids)
        if tap is not None:
            tap("stream.0", state)
        first = self.spec.pooling == "cls" and tap is None  # the pooler reads no other token
        for i, layer in enumerate(self.layers):
            state = layer(state, contexts, tap, first=first and i + 1 == len(self.layers))
            if tap is not None:
                tap(f"stream.{i + 1}", state)
        return self.classify(self.pooled(state, attention_mask), tap)

    def pooled(self, state: Tensor, mask: Tensor) -> Tensor:
        """Return what the pooler reads, (B, d), of the last state of the stream (B, T, d)."""
        if self.spec.pooling == "cls":
            return self.norm(state[:, :1])[:, 0]
        weights = mask.to(state.dtype)
        return (self.norm(state) * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)

    def classify(self, pooled: Tensor, tap: Tap | None = None) -> Tensor:
        """Return logits (B, labels)."""
        inner = self.pooler(pooled)
        if tap is not None:
            tap("pooler", inner)
        return self.classifier(self.dropout(self.pooler_norm(self.pooler_activation(inner))))

    def set_attention(self, attention: Attention) -> None:
        """Use another implementation of attention in every layer."""
        for layer in self.layers:
            layer.attention = attention


def norm_of(spec: ModernBertSpec, width: int) -> nn.LayerNorm:
    """Return a norm over a width."""
    return nn.LayerNorm(width, eps=spec.eps, bias=spec.norm_bias)
