"""How long a MobileNet would take on a device that is not here, and how large its files are.

Every convolution is counted with the time a multiply-accumulate takes at its width, as of a ResNet; a depthwise one
reads one channel for each that it writes, so that its width is small and its multiply-accumulates are dear.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.families.mobilenet.spec import Convolution, MobileNetSpec

# Bytes of a file besides its weights: for each channel of a layer (bias; in int8 scales and zero points too) and for
# the nodes of each layer (found by exporting MobileNets).
CHANNEL_BYTES = {"fp32": 4, "int8": 17}
NODE_BYTES = {"fp32": 915, "int8": 2_300}


def predict_ms(spec: MobileNetSpec, curves: Calibration) -> float:
    """Return the predicted latency in ms of one image; raise ValueError where the calibration has no sizes."""
    return 1e-6 * sum(_nanoseconds(c, curves) for c in spec.convolutions())


def _nanoseconds(c: Convolution, curves: Calibration) -> float:
    pixels = c.side**2
    macs = pixels * c.kernel**2 * c.inputs * c.outputs
    return macs * curves.ns_per_mac("conv", sqrt(c.inputs * c.outputs), pixels)


def file_bytes(spec: MobileNetSpec, precision: Literal["fp32", "int8"]) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded net, whose norms are part of its convolutions."""
    convolutions, linears = list(spec.convolutions()), spec.linears()
    weights = sum(c.kernel**2 * c.inputs * c.outputs for c in convolutions) + sum(a * b for a, b in linears)
    channels = sum(c.outputs for c in convolutions) + sum(outputs for _, outputs in linears)
    layers = len(convolutions) + len(linears)
    return {"fp32": 4, "int8": 1}[precision] * weights + (
        CHANNEL_BYTES[precision] * channels + NODE_BYTES[precision] * layers
    )
