"""A training between an encoder and one of fewer layers."""

from __future__ import annotations

from torch import Tensor

from rmtkd_edge.families import depth


class Mixed(depth.Mixed):
    """See families/depth.py."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return logits (B, labels) for token ids and mask (B, T), int64."""
        student = self.student
        mask = attention_mask.bool()
        state = student.first_state(input_ids, mask, token_type_ids)
        return student.classify(self.through(state, mask, None, student.distances(input_ids)), mask)
