"""The module that is traced: an encoder whose attention, norms and GELU are single onnxruntime operators.

Weights are shared with the encoder, never traced; families/onnx_operators.py has the operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from rmtkd_edge.errors import RmtkdError, UserError
from rmtkd_edge.families.encoder.module import Encoder, EncoderLayer
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.onnx_operators import GELUS, GraphOptions, InstanceNorm, fused_attention, plain_attention
from rmtkd_edge.families.onnx_program import OUTPUT, export_module
from rmtkd_edge.families.store import assemble

EMBEDDINGS = ("sentence_embedding", "last_hidden_state")  # the second is what other clients pool themselves


def fuses_attention(spec: EncoderSpec, options: GraphOptions) -> bool:
    """Return whether attention is one operator: not where something is added to the scores.

    With a bias and a padding mask the CPU kernels of onnxruntime 1.18 and 1.19 compute MultiHeadAttention wrongly,
    without an error, and 1.31 takes as long as for the standard operators.
    """
    return options.attention == "fused" and not (spec.relative_positions or spec.blank_padding)


class SharedLinear(nn.Module):
    """A linear layer that is traced several times: with its matrix as the product reads it, the graph has it once.

    Of any other torch's exporter writes a transposed copy for every use, or leaves the transposition to be done each
    time.
    """

    def __init__(self, linear: ProjectedLinear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(linear.weight.detach().T.contiguous()), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return x @ self.weight + self.bias


class Embedder(Encoder):
    """An encoder that gives the embeddings of the tokens too, for clients that pool and normalise by themselves."""

    def __init__(self, encoder: Encoder) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(encoder.__dict__)  # all of its parts, shared

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, width) and those of the tokens (B, T, width)."""
        tokens = self.classified(self.states(input_ids, attention_mask, token_type_ids))
        return self.embed(tokens, attention_mask), tokens


def shared_linear(spec: EncoderSpec) -> tuple[str, ...]:
    """Return the linear layers of a layer that are traced several times."""
    if spec.repeats > 1:
        return ("query", "key", "value", "out", "up", "down")
    return ("query", "key") if spec.disentangled is not None and spec.disentangled.shared else ()


def build(folded: Encoder, options: GraphOptions) -> Encoder:
    """Return the module to trace; it shares its weights with `folded`, which is left as it is.

    Raises UserError for an encoder that still carries projections: only a folded one ships.
    """
    if folded.spec.raw:
        raise UserError(
            "the encoder still carries fixed projections", "fold it first: rmtkd_edge.families.encoder.fold.fold"
        )
    state = {name: tensor.float() for name, tensor in folded.state_dict().items()}  # no copy of what is float32 already
    traced = cast("Encoder", assemble(folded.spec, state, "the encoder in memory"))
    layers: list[EncoderLayer] = list(traced.layers)  # type: ignore[arg-type]
    # For one query a row the CPU kernels of onnxruntime 1.18 to 1.20.1 compute MultiHeadAttention with the padding mask
    # wrongly, without an error: the first token's attention is plain in both graphs.
    traced.set_attention(
        fused_attention if fuses_attention(folded.spec, options) else plain_attention, of_first=plain_attention
    )
    traced.first_only &= options.first_token
    gelus = GELUS[options.gelu]
    for layer in layers:
        layer.activation = gelus.get(folded.spec.activation, layer.activation)
    traced.pooler_activation = gelus.get(folded.spec.pooler_activation, traced.pooler_activation)
    if options.norm == "instance":
        traced.embeddings.norm = InstanceNorm(traced.embeddings.norm)  # type: ignore[assignment]
        for layer in layers:
            layer.norm1, layer.norm2 = InstanceNorm(layer.norm1), InstanceNorm(layer.norm2)  # type: ignore[assignment]
    for layer in layers:
        for name in shared_linear(folded.spec):
            setattr(layer, name, SharedLinear(getattr(layer, name)))
    return (Embedder(traced) if folded.spec.head == "embedding" else traced).eval()


def export(
    folded: Encoder, path: Path, options: GraphOptions | None = None, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Write a folded encoder as ONNX with dynamic batch and sequence axes, and return the files.

    Inputs are int64 (batch, sequence), the output is `logits` float32 (batch, labels) or (batch, sequence, labels), or
    `sentence_embedding` (batch, width) with `last_hidden_state` (batch, sequence, width).

    Raises:
        RmtkdError: torch cannot export.
        RunDirError: the file cannot be written.
    """
    options = options or GraphOptions()
    names = [item.name for item in folded.spec.inputs]
    axes = {0: "batch", 1: "sequence"}
    try:
        return export_module(
            build(folded, options),
            path,
            sample_inputs(names),
            dict.fromkeys(names, axes),
            opset=options.opset,
            metadata=metadata or {},
            outputs=EMBEDDINGS if folded.spec.head == "embedding" else (OUTPUT,),
        )
    except RmtkdError as err:
        if err.message.startswith("torch could not export"):
            raise RmtkdError(err.message, "try --graph portable") from err
        raise


def sample_inputs(names: list[str], batch: int = 2, length: int = 16) -> dict[str, Tensor]:
    """Return int64 inputs (batch, length) to trace with; sizes of 0 and 1 would be taken for constants."""
    fill = {"input_ids": 3, "attention_mask": 1, "token_type_ids": 0}
    return {name: torch.full((batch, length), fill[name]) for name in names}
