"""What graphs are traced with in place of torch's own operators: GELUs and norms that onnxruntime runs as one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

CONTRIB = "com.microsoft"


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
