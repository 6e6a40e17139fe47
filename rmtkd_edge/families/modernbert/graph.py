"""The module that is traced: a ModernBERT whose norms and GELUs are operators that onnxruntime runs as one.

Attention is in standard operators in both graphs, with the window and the padding as one bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.modernbert.module import ModernBert, bias_of
from rmtkd_edge.families.onnx_operators import GELUS, InstanceNorm
from rmtkd_edge.families.onnx_program import export_module
from rmtkd_edge.families.store import assemble

LINEAR = ("query", "key", "value", "out", "up", "gate", "down")
BATCH, LENGTH = 2, 16  # that is traced with; sizes of 0 and 1 would be taken for constants


def plain_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Emit attention in standard operators; see `sdpa_attention`.

    The bias is the same in all layers of a kind, so that the exporter keeps one.
    """
    scores = (q * scale) @ k.transpose(-1, -2) + bias_of(allowed, q.dtype)
    return scores.softmax(-1) @ v


class Product(nn.Module):
    """A linear layer as a product with a matrix (in, out) that keeps its name in the graph, where int8 looks for it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.matrix, self.bias = nn.Parameter(layer.weight.detach().T.contiguous()), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        product = x @ self.matrix
        return product if self.bias is None else product + self.bias


def build(folded: ModernBert, options: Export) -> ModernBert:
    """Return the module to trace; `folded` is left as it is.

    Raises UserError for a model that still carries projections: only a folded one ships.
    """
    if folded.spec.raw:
        raise UserError("the model still carries fixed projections", "fold it first: family_of(model).fold(model)")
    state = {name: tensor.float() for name, tensor in folded.state_dict().items()}
    traced = cast("ModernBert", assemble(folded.spec, state, "the model in memory"))
    traced.set_attention(plain_attention)
    gelus = GELUS["plain" if options.graph == "portable" else "fused"]
    traced.pooler_activation = gelus.get(folded.spec.pooler_activation, traced.pooler_activation)
    traced.embeddings.norm = InstanceNorm(traced.embeddings.norm)  # type: ignore[assignment]
    traced.norm = InstanceNorm(traced.norm)  # type: ignore[assignment]
    for layer, shape in zip(traced.layers, folded.spec.layers, strict=True):
        layer.activation = gelus.get(folded.spec.activation, layer.activation)
        layer.norm2 = InstanceNorm(layer.norm2)  # type: ignore[assignment]
        for name in LINEAR:
            setattr(layer, name, Product(getattr(layer, name)))
        if shape.normed:
            layer.norm1 = InstanceNorm(layer.norm1)  # type: ignore[assignment, arg-type]
    return traced.eval()


def export(folded: ModernBert, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
    """Write a folded model as ONNX with dynamic batch and sequence axes, and return the files.

    Inputs are int64 (batch, sequence), the output is `logits` float32 (batch, labels).

    Raises:
        RmtkdError: torch cannot export.
        RunDirError: the file cannot be written.
    """
    sample = {
        "input_ids": torch.full((BATCH, LENGTH), 3),
        "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
    }
    axes = {name: {0: "batch", 1: "sequence"} for name in sample}
    return export_module(build(folded, options), path, sample, axes, opset=options.opset, metadata=metadata)
