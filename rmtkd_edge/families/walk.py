"""One batch of calibration images on its way through teacher and student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Walk:
    """The teacher's and the student's state: (B, channels, H, W) of convolutions, (B, T, width) of a transformer."""

    teacher: Tensor
    student: Tensor
