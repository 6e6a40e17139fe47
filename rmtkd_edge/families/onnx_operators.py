"""What graphs of transformers are made of: attention, norms and GELU as single onnxruntime operators, or as plain ones.

What is exact and what is not: every rewrite here computes the same function; only the order of floating-point
operations differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import UserError

CONTRIB = "com.microsoft"
OPSETS = range(18, 24)


@dataclass(frozen=True)
class GraphOptions:
    """How the graph is emitted.

    `attention`: one com.microsoft::MultiHeadAttention a layer, or standard operators, which the first token's layer and
    models with relative positions have in any case. `norm`: `instance` writes a layer norm as InstanceNormalization
    over (B, T, d), scale and shift: the same function, and on CPUs onnxruntime's kernel is vectorised where
    LayerNormalization's and SkipLayerNormalization's are not (tools/bench_shapes.py compares). `gelu`: one
    com.microsoft::Gelu, or standard operators in the order that onnxruntime's optimiser finds; it does not find
    torch's. `first_token`: the last layer computes the first token alone, where the head reads no other.
    """

    opset: int = 18
    attention: Literal["fused", "plain"] = "fused"
    norm: Literal["instance", "layer"] = "instance"
    gelu: Literal["fused", "plain"] = "fused"
    first_token: bool = True

    @staticmethod
    def of(options: Export) -> GraphOptions:
        """Return what a recipe's export section says of the graph."""
        if options.graph == "portable":
            return GraphOptions(opset=options.opset, attention="plain", gelu="plain")
        return GraphOptions(opset=options.opset)

    def __post_init__(self) -> None:
        """Raise UserError for an opset that is not supported."""
        if self.opset not in OPSETS:
            raise UserError(
                f"opset {self.opset} is not supported", f"export.opset: {OPSETS.start} to {OPSETS.stop - 1}"
            )


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Emit com.microsoft::MultiHeadAttention; there must be no bias of scores.

    q (B, Q, heads * r), k (B, T, heads * r), v (B, T, heads * p); returns (B, Q, heads * p). The mask is (B, T) bool,
    None where all tokens are valid.
    """
    assert bias is None, "a bias is added in standard operators"
    shape = (q.shape[0], q.shape[1], v.shape[2])
    return torch.onnx.ops.symbolic(
        f"{CONTRIB}::MultiHeadAttention",
        [q, k, v, None, None if mask is None else mask.to(torch.int32)],
        attrs={"num_heads": heads, "scale": scale},
        dtype=q.dtype,
        shape=shape,
        version=1,
    )


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Emit attention in standard operators; else as `fused_attention`. `bias` (B, heads, Q, T) is added to the scores.

    What the mask adds is the same in all layers, so that the exporter keeps one; onnxruntime takes the scale into the
    product.
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (q * scale) @ k.transpose(-1, -2)
    added = bias
    if mask is not None:
        padding = torch.where(mask, 0.0, torch.finfo(q.dtype).min)[:, None, None, :]  # a sum: faster than masked_fill
        added = padding if bias is None else padding + bias
    if added is not None:
        scores = scores + added
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def fused_gelu(x: Tensor) -> Tensor:
    """Emit com.microsoft::Gelu (the exact one, by erf)."""
    return torch.onnx.ops.symbolic(f"{CONTRIB}::Gelu", [x], dtype=x.dtype, shape=x.shape, version=1)


def fused_tanh_gelu(x: Tensor) -> Tensor:
    """Emit com.microsoft::FastGelu (the one that is defined by tanh)."""
    return torch.onnx.ops.symbolic(f"{CONTRIB}::FastGelu", [x], dtype=x.dtype, shape=x.shape, version=1)


def plain_gelu(x: Tensor) -> Tensor:
    """Emit the exact GELU in standard operators, in the order that onnxruntime fuses into one."""
    return (x * 0.5) * (torch.erf(x / math.sqrt(2)) + 1.0)


def plain_tanh_gelu(x: Tensor) -> Tensor:
    """Emit the GELU that is defined by tanh in standard operators, in the order that onnxruntime fuses into one."""
    return (x * 0.5) * (torch.tanh((x * math.sqrt(2 / math.pi)) * ((x * 0.044715) * x + 1.0)) + 1.0)


GELUS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "fused": {"gelu": fused_gelu, "gelu_new": fused_tanh_gelu, "gelu_pytorch_tanh": fused_tanh_gelu},
    "plain": {"gelu": plain_gelu, "gelu_new": plain_tanh_gelu, "gelu_pytorch_tanh": plain_tanh_gelu},
}
FUSED_NAMES = {"gelu": "Gelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}


class InstanceNorm(nn.Module):
    """A layer norm over the last axis, with tokens in the place of an image's channels."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, T, d) over d."""
        ones, zeros = torch.ones(x.shape[1], dtype=x.dtype), torch.zeros(x.shape[1], dtype=x.dtype)
        normal = torch.onnx.ops.symbolic(
            "InstanceNormalization", [x, ones, zeros], attrs={"epsilon": self.eps}, dtype=x.dtype, shape=x.shape
        )
        scaled = normal * self.weight
        return scaled if self.bias is None else scaled + self.bias
