"""How long a ResNet would take on a device that is not here: from the width -> latency curves measured on it.

Every convolution is counted with the time a multiply-accumulate takes at its width. Biases, ReLUs and the memory
between layers are in the curves' layers too, and are not counted again; `profile` measures the whole.
"""

from __future__ import annotations

from math import sqrt

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.families.resnet.spec import Convolution, ResNetSpec


def predict_ms(spec: ResNetSpec, curves: Calibration) -> float:
    """Return the predicted latency in ms of one image; raise ValueError where the calibration has no sizes."""
    return 1e-6 * sum(convolution_ns(c, curves) for c in spec.convolutions())


def convolution_ns(c: Convolution, curves: Calibration) -> float:
    """Return the nanoseconds of one convolution on one image; its width is the mean of both sides'."""
    pixels = c.side**2
    return pixels * c.kernel**2 * c.inputs * c.outputs * curves.ns_per_mac("conv", sqrt(c.inputs * c.outputs), pixels)
