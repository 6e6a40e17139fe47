"""A training between a ModernBERT and one of fewer layers."""

from __future__ import annotations

from torch import Tensor

from rmtkd_edge.families import depth


class Mixed(depth.Mixed):
    """See families/depth.py."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (B, labels) for token ids and mask (B, T), int64."""
        student = self.student
        state = self.through(student.embeddings(input_ids), student.contexts(attention_mask))
        return student.classify(student.pooled(state, attention_mask))
