"""A training between a vision transformer and one of fewer layers."""

from __future__ import annotations

from torch import Tensor

from rmtkd_edge.families import depth


class Mixed(depth.Mixed):
    """A vision transformer in which layers of the teacher stand for some of its own."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        student = self.student
        state = self.through(student.embedded(pixel_values), None)  # no layer has a tap
        return student.classifier(student.pooled(student.norm(state)))
