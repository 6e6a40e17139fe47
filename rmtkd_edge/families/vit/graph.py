"""The module that is traced: a vision transformer of single onnxruntime operators, or of plain ones.

Weights are shared with the model, never traced; families/onnx_operators.py has the operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.onnx_operators import GELUS, GraphOptions, InstanceNorm, fused_attention, plain_attention
from rmtkd_edge.families.onnx_program import export_module
from rmtkd_edge.families.store import assemble
from rmtkd_edge.families.vit.module import VisionTransformer


class GraphNorm(InstanceNorm):
    """A layer norm as `InstanceNorm` has it, called as the module's own is; there is nothing to tap in a graph."""

    def forward(self, x: Tensor, tap: Tap | None = None, name: str = "") -> Tensor:
        """Normalise (B, T, d) over d."""
        return super().forward(x)


def fused(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Emit com.microsoft::MultiHeadAttention; shapes as of `sdpa_attention`."""
    return fused_attention(q, k, v, None, heads, scale)


def plain(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Emit attention in standard operators; shapes as of `sdpa_attention`."""
    return plain_attention(q, k, v, None, heads, scale)


def build(folded: VisionTransformer, options: GraphOptions) -> VisionTransformer:
    """Return the module to trace; it shares its weights with `folded`, which is left as it is.

    Raises UserError for a model that still carries projections: only a folded one ships.
    """
    if folded.spec.raw:
        raise UserError("the model still carries fixed projections", "fold it first")
    state = {name: tensor.float() for name, tensor in folded.state_dict().items()}  # no copy of what is float32 already
    traced = cast("VisionTransformer", assemble(folded.spec, state, "the model in memory"))
    for layer in traced.layers:
        layer.attention, layer.first_attention = fused if options.attention == "fused" else plain, plain
        layer.activation = GELUS[options.gelu].get(folded.spec.activation, layer.activation)
        layer.norm1, layer.norm2 = GraphNorm(layer.norm1), GraphNorm(layer.norm2)  # type: ignore[assignment]
    traced.norm = GraphNorm(traced.norm)  # type: ignore[assignment]
    traced.first_only &= options.first_token
    return traced.eval()


def export(
    folded: VisionTransformer, path: Path, options: GraphOptions, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Write a folded model as ONNX with a dynamic batch axis, and return the files.

    Raises:
        RmtkdError: torch cannot export.
        RunDirError: the file cannot be written.
    """
    (item,) = folded.spec.inputs
    side = folded.spec.image_size
    sample = torch.zeros(2, CHANNELS, side, side)  # sizes of 0 and 1 would be taken for constants
    return export_module(
        build(folded, options),
        path,
        {item.name: sample},
        {item.name: {0: "batch"}},
        opset=options.opset,
        metadata=metadata or {},
    )
