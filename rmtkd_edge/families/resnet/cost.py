"""How large a ResNet's files are."""

from __future__ import annotations

from typing import Literal

from rmtkd_edge.families.resnet.spec import ResNetSpec

# Bytes of a file besides its weights: for each channel of a convolution (bias; in int8 scales and zero points too) and
# for the nodes of each convolution (found by exporting a ResNet-18).
CHANNEL_BYTES = {"fp32": 4, "int8": 13}
NODE_BYTES = {"fp32": 900, "int8": 3_300}


def file_bytes(spec: ResNetSpec, precision: Literal["fp32", "int8"]) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded net, whose norms are part of its convolutions."""
    convolutions, classifier = list(spec.convolutions()), spec.stages[-1].width * len(spec.labels)
    weights = classifier + sum(c.weights for c in convolutions)
    channels = len(spec.labels) + sum(spec.places().values())
    return {"fp32": 4, "int8": 1}[precision] * weights + (
        CHANNEL_BYTES[precision] * channels + NODE_BYTES[precision] * (len(convolutions) + 1)
    )
