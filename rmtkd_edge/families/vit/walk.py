"""One batch of calibration images on its way through teacher and student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Walk:
    """The states (B, T, width) of the teacher and of the student."""

    teacher: Tensor
    student: Tensor
