"""A training between a vision transformer and one of fewer layers."""

from __future__ import annotations

from torch import Tensor

from rmtkd_edge.families import depth


class Mixed(depth.Mixed):
    """See families/depth.py."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        state = self.through(self.student.embedded(pixel_values))
        return self.student.classifier(self.student.pooled(self.student.norm(state)))
