"""A vision transformer with free widths: the one module that is trained, narrowed, folded and exported.

It computes what the ViT and DeiT classifiers of transformers and torchvision's VisionTransformer compute (tests compare
them), but a layer may have its own query/key, value and FFN widths, and the residual stream need not be a multiple of
the heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.activations import activation
from rmtkd_edge.families.attention import attend
from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.layers import ProjectedLinear, along_outputs
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.vit.spec import LayerSpec, VitSpec

Attention = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Return softmax(scale q k^T) v, head by head.

    q (B, Q, heads * r), k (B, T, heads * r), v (B, T, heads * p); returns (B, Q, heads * p).
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return attend(q, k, v, scale=scale).transpose(1, 2).flatten(2)


class ProjectedPatches(nn.Module):
    """The embedding of patches: a convolution as wide as its stride, with a fixed projection after it or none."""

    projection: Tensor | None

    def __init__(self, patch: int, width: int, raw: int | None) -> None:
        super().__init__()
        wide = width if raw is None else raw
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(wide, CHANNELS, patch, patch))
        self.bias = nn.Parameter(torch.empty(wide))
        self.register_buffer("projection", None if raw is None else torch.empty(width, wide))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to patches (B, T, width), row by row."""
        p, weight, bias = self.projection, self.weight, self.bias
        folded = (weight, bias) if p is None else (along_outputs(p, weight), p @ bias)
        return F.conv2d(pixels, *folded, stride=self.patch).flatten(2).transpose(1, 2)


class ProjectedTable(nn.Module):
    """Vectors that are added to the stream or put in front of it, as the columns of a weight (width, count)."""

    projection: Tensor | None

    def __init__(self, count: int, width: int, raw: int | None) -> None:
        super().__init__()
        wide = width if raw is None else raw
        self.weight = nn.Parameter(torch.empty(wide, count))
        self.register_buffer("projection", None if raw is None else torch.empty(width, wide))

    def forward(self) -> Tensor:
        """Return the vectors (count, width)."""
        return (self.weight if self.projection is None else self.projection @ self.weight).T


class Norm(nn.LayerNorm):
    """A layer norm whose tap sees the normalised state before scale and shift."""

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        """Normalise (B, T, d) over d."""
        if tap is None:
            return super().forward(x)
        normal = self.plain(x)
        tap(name, normal)
        return normal * self.weight + self.bias

    def plain(self, x: Tensor) -> Tensor:
        """Return the normalised state without scale and shift."""
        return F.layer_norm(x, self.normalized_shape, eps=self.eps)


class VitLayer(nn.Module):
    """Attention and feed-forward network, each after a norm and added to the stream (pre-LayerNorm).

    Attributes:
        attention: of all tokens.
        first_attention: of the first token alone.
    """

    def __init__(self, spec: VitSpec, layer: LayerSpec, name: str) -> None:
        super().__init__()
        d, raw, heads = spec.width, spec.raw, layer.heads
        qk_raw = None if f"{name}.qk" not in raw else heads * raw[f"{name}.qk"]
        value_raw = None if f"{name}.value" not in raw else heads * raw[f"{name}.value"]
        self.heads, self.scale, self.name = heads, layer.scale, name
        self.attention: Attention = sdpa_attention
        self.first_attention: Attention = sdpa_attention
        self.activation = activation(spec.activation)
        self.norm1 = Norm(d, eps=spec.eps)
        self.query = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.key = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.value = ProjectedLinear(d, heads * layer.value, value_raw)
        self.out = ProjectedLinear(heads * layer.value, d, raw.get("stream"))
        self.norm2 = Norm(d, eps=spec.eps)
        self.up = ProjectedLinear(d, layer.ffn, raw.get(f"{name}.ffn"))
        self.down = ProjectedLinear(layer.ffn, d, raw.get("stream"))
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor, tap: Tap | None = None, *, first: bool = False) -> Tensor:
        """Map a state (B, T, d) to the next one; `tap(name, tensor)` sees every site on the way.

        Args:
            first: only the first token's, (B, 1, d): keys and values need all tokens, nothing else does.
        """
        normal = self.norm1(x, tap, f"{self.name}.norm1")
        q, k, v = self.query(normal[:, :1] if first else normal), self.key(normal), self.value(normal)
        context = (self.first_attention if first else self.attention)(q, k, v, self.heads, self.scale)
        if tap is not None:
            for part, tensor in (("q", q), ("k", k), ("value", context)):
                tap(f"{self.name}.{part}", tensor)
        x = (x[:, :1] if first else x) + self.dropout(self.out(context))
        inner = self.up(self.norm2(x, tap, f"{self.name}.norm2"))
        if tap is not None:
            tap(f"{self.name}.ffn", inner)
        return x + self.dropout(self.down(self.activation(inner)))


class VisionTransformer(Model):
    """The classifier: patches, tokens in front of them, positions, layers, a norm, and a linear classifier.

    Attributes:
        first_only: the last layer computes the first token alone where the classifier reads no other and nothing is
            tapped.
    """

    spec: VitSpec

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        raw = spec.raw.get("stream")
        self.spec = spec
        self.first_only = spec.pool == "class"
        self.patches = ProjectedPatches(spec.patch, spec.width, raw)
        self.tokens = ProjectedTable(spec.tokens, spec.width, raw) if spec.tokens else None
        self.positions = ProjectedTable(spec.positions, spec.width, raw)
        self.layers: list[VitLayer] = nn.ModuleList(  # type: ignore[assignment]
            VitLayer(spec, s, f"layer.{i}") for i, s in enumerate(spec.layers)
        )
        self.norm = Norm(spec.width, eps=spec.eps)
        self.classifier = ProjectedLinear(spec.width, len(spec.labels))
        self.dropout = nn.Dropout(spec.dropout)

    @property
    def output_layer(self) -> ProjectedLinear:
        """The classifier."""
        return self.classifier

    def forward(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        state = self.embedded(pixel_values)
        if tap is not None:
            tap("stream.0", state)
        for i, layer in enumerate(self.layers):
            last = i + 1 == len(self.layers)
            state = layer(state, tap, first=last and self.first_only and tap is None)
            if tap is not None:
                tap(f"stream.{i + 1}", state)
        features = self.pooled(self.norm(state, tap, "norm"))
        if tap is not None:
            tap("features", features)
        return self.classifier(features)

    def embedded(self, pixel_values: Tensor) -> Tensor:
        """Return the first state of the stream (B, T, d)."""
        state = self.patches(pixel_values)
        if self.tokens is not None:
            state = torch.cat([self.tokens().expand(state.shape[0], -1, -1), state], 1)
        return self.dropout(state + self.positions())

    def pooled(self, state: Tensor) -> Tensor:
        """Return what the classifier reads (B, d) of a state (B, T, d)."""
        return state[:, 0] if self.spec.pool == "class" else state[:, self.spec.tokens :].mean(1)
