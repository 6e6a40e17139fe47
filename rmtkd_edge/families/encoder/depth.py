"""A training between an encoder and one of fewer layers."""

from __future__ import annotations

from torch import Tensor

from rmtkd_edge.families import depth


class Mixed(depth.Mixed):
    """See families/depth.py."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return logits (B, labels) for token ids and mask (B, T), int64."""
        student = self.student
        state, bias = student.embeddings(input_ids, token_type_ids), student.bias(input_ids)
        mask = attention_mask.bool()
        return student.classify(self.through(state, mask, None, bias), mask)
