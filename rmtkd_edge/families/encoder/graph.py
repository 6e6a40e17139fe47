"""The module that is traced: an encoder whose attention, norms and GELU are single onnxruntime operators.

Weights are shared with the encoder, never traced. What is exact and what is not: every rewrite here computes the same
function; only the order of floating-point operations differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import RmtkdError, UserError
from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.encoder.module import Encoder, EncoderLayer
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.families.onnx_program import OUTPUT, export_module
from rmtkd_edge.families.store import assemble

CONTRIB = "com.microsoft"
OPSETS = range(18, 24)
EMBEDDINGS = ("sentence_embedding", "last_hidden_state")  # the second is what other clients pool themselves


@dataclass(frozen=True)
class GraphOptions:
    """How the graph is emitted.

    `attention`: one com.microsoft::MultiHeadAttention a layer, or standard operators, which the first token's layer has
    in any case. `norm`: `instance` writes a layer norm as InstanceNormalization over (B, T, d), scale and shift: the
    same function, and on CPUs onnxruntime's kernel is vectorised where LayerNormalization's and
    SkipLayerNormalization's are not (tools/bench_shapes.py compares). `gelu`: one com.microsoft::Gelu, or standard
    operators in the order that onnxruntime's optimiser finds; it does not find torch's. `first_token`: the last layer
    computes the first token alone, where a pooler reads no other.
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

    def first_token_alone(self, spec: EncoderSpec) -> bool:
        """Return whether the last layer computes the first token alone."""
        return self.first_token and spec.head == "row"

    def __post_init__(self) -> None:
        """Raise UserError for an opset that is not supported."""
        if self.opset not in OPSETS:
            raise UserError(
                f"opset {self.opset} is not supported", f"export.opset: {OPSETS.start} to {OPSETS.stop - 1}"
            )


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int, scale: float) -> Tensor:
    """Emit com.microsoft::MultiHeadAttention.

    q (B, Q, heads * r), k (B, T, heads * r), v (B, T, heads * p), mask (B, T) bool; returns (B, Q, heads * p).
    """
    shape = (q.shape[0], q.shape[1], v.shape[2])
    return torch.onnx.ops.symbolic(
        f"{CONTRIB}::MultiHeadAttention",
        [q, k, v, None, mask.to(torch.int32)],
        attrs={"num_heads": heads, "scale": scale},
        dtype=q.dtype,
        shape=shape,
        version=1,
    )


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int, scale: float) -> Tensor:
    """Emit attention in standard operators; else as `fused_attention`.

    The bias is the same in all layers, so that the exporter keeps one; onnxruntime takes the scale into the product.
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    bias = torch.where(mask, 0.0, torch.finfo(q.dtype).min)[:, None, None, :]  # a sum is faster than masked_fill
    scores = (q * scale) @ k.transpose(-1, -2) + bias
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
        return normal * self.weight + self.bias


class FirstTokenLayer(EncoderLayer):
    """The last layer, for the first token alone: keys and values need all tokens, nothing else does.

    Its attention is plain in both graphs: for one query a row the CPU kernels of onnxruntime 1.18 to 1.20.1 compute
    MultiHeadAttention with the padding mask wrongly, without an error.
    """

    def __init__(self, layer: EncoderLayer) -> None:
        nn.Module.__init__(self)
        for name, child in layer.named_children():  # the layer's own modules, under their own names
            self.add_module(name, child)
        self.heads, self.scale, self.name = layer.heads, layer.scale, layer.name
        self.attention, self.activation = plain_attention, layer.activation

    def forward(self, x: Tensor, mask: Tensor, tap: Tap | None = None) -> Tensor:
        """Map a state (B, T, d) to the next one's first token (B, 1, d); there is nothing to tap in a graph."""
        first = x[:, :1]
        context = self.attention(self.query(first), self.key(x), self.value(x), mask, self.heads, self.scale)
        first = self.norm1(first + self.out(context))
        return self.norm2(first + self.down(self.activation(self.up(first))))


class Embedder(Encoder):
    """An encoder that gives the embeddings of the tokens too, for clients that pool and normalise by themselves."""

    def __init__(self, encoder: Encoder) -> None:
        nn.Module.__init__(self)
        for name, child in encoder.named_children():
            self.add_module(name, child)
        self.spec, self.pooler, self.classifier = encoder.spec, encoder.pooler, encoder.classifier

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, width) and those of the tokens (B, T, width)."""
        tokens = self.classified(self.states(input_ids, attention_mask, token_type_ids))
        return self.embed(tokens, attention_mask), tokens


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
    traced.set_attention(fused_attention if options.attention == "fused" else plain_attention)
    gelus = GELUS[options.gelu]
    for layer in layers:
        layer.activation = gelus.get(folded.spec.activation, layer.activation)
    traced.pooler_activation = gelus.get(folded.spec.pooler_activation, traced.pooler_activation)
    if options.norm == "instance":
        traced.embeddings.norm = InstanceNorm(traced.embeddings.norm)  # type: ignore[assignment]
        for layer in layers:
            layer.norm1, layer.norm2 = InstanceNorm(layer.norm1), InstanceNorm(layer.norm2)  # type: ignore[assignment]
    if options.first_token_alone(folded.spec):
        traced.layers[-1] = FirstTokenLayer(layers[-1])
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
