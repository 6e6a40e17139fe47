"""How long convolutions would take on a device that is not here: from the width -> latency curves measured on it.

Every convolution is counted with the time a multiply-accumulate takes at its width. Biases, activations and the memory
between layers are in the curves' layers too, and are not counted again; `profile` measures the whole. A depthwise
convolution reads one channel for each that it writes: its width is small and its multiply-accumulates are dear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from rmtkd_edge.config.hardware import Calibration


@dataclass(frozen=True)
class Convolution:
    """One convolution: channels in (of a group) and out, kernel, and the pixels a side of what it writes."""

    inputs: int
    outputs: int
    kernel: int
    side: int

    @property
    def weights(self) -> int:
        """Return the number of its weights."""
        return self.kernel**2 * self.inputs * self.outputs


def predict_ms(convolutions: Iterable[Convolution], curves: Calibration) -> float:
    """Return the predicted latency in ms of one image; raise ValueError where the calibration has no sizes."""
    return 1e-6 * sum(_nanoseconds(c, curves) for c in convolutions)


def _nanoseconds(c: Convolution, curves: Calibration) -> float:
    """Return the time of one convolution on one image; its width is the mean of both sides'."""
    pixels = c.side**2
    return pixels * c.weights * curves.ns_per_mac("conv", sqrt(c.inputs * c.outputs), pixels)
