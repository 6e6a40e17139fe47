"""How large a MobileNet's files are."""

from __future__ import annotations

from typing import Literal

from rmtkd_edge.families.mobilenet.spec import MobileNetSpec

# Bytes of a file besides its weights: for each channel of a layer (bias; in int8 scales and zero points too) and for
# the nodes of each layer (found by exporting MobileNets).
CHANNEL_BYTES = {"fp32": 4, "int8": 17}
NODE_BYTES = {"fp32": 915, "int8": 2_300}


def file_bytes(spec: MobileNetSpec, precision: Literal["fp32", "int8"]) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded net, whose norms are part of its convolutions."""
    convolutions, linears = list(spec.convolutions()), spec.linears()
    weights = sum(c.weights for c in convolutions) + sum(a * b for a, b in linears)
    channels = sum(c.outputs for c in convolutions) + sum(outputs for _, outputs in linears)
    layers = len(convolutions) + len(linears)
    return {"fp32": 4, "int8": 1}[precision] * weights + (
        CHANNEL_BYTES[precision] * channels + NODE_BYTES[precision] * layers
    )
