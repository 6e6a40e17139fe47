"""How long a ResNet would take on a device that is not here: from the width -> latency curves measured on it.

Every convolution is counted with the time a multiply-accumulate takes at its width. Biases, ReLUs and the memory
between layers are in the curves' layers too, and are not counted again; `profile` measures the whole.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.families.resnet.spec import Convolution, ResNetSpec


def predict_ms(spec: ResNetSpec, curves: Calibration) -> float:
    """Return the predicted latency in ms of one image; raise ValueError where the calibration has no sizes."""
    return 1e-6 * sum(convolution_ns(c, curves) for c in spec.convolutions())


def convolution_ns(c: Convolution, curves: Calibration) -> float:
    """Return the nanoseconds of one convolution on one image; its width is the mean of both sides'."""
    pixels = c.side**2
    return pixels * c.kernel**2 * c.inputs * c.outputs * curves.ns_per_mac("conv", sqrt(c.inputs * c.outputs), pixels)


# Bytes of a file besides its weights: for each channel of a convolution (bias; in int8 scales and zero points too) and
# for the nodes of each convolution (found by exporting a ResNet-18).
CHANNEL_BYTES = {"fp32": 4, "int8": 13}
NODE_BYTES = {"fp32": 900, "int8": 3_300}


def file_bytes(spec: ResNetSpec, precision: Literal["fp32", "int8"]) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded net, whose norms are part of its convolutions."""
    convolutions, classifier = list(spec.convolutions()), spec.stages[-1].width * len(spec.labels)
    weights = classifier + sum(c.kernel**2 * c.inputs * c.outputs for c in convolutions)
    channels = len(spec.labels) + sum(spec.places().values())
    return {"fp32": 4, "int8": 1}[precision] * weights + (
        CHANNEL_BYTES[precision] * channels + NODE_BYTES[precision] * (len(convolutions) + 1)
    )
