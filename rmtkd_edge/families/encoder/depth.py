"""Encoders of fewer layers: the shape, the weights of the layers that stay, and a training between the two."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.families.layers import with_state


def shorter(spec: EncoderSpec, layers: Sequence[int]) -> EncoderSpec:
    """Return the shape of these layers, by their numbers from 0, alone."""
    return replace(spec, layers=tuple(spec.layers[i] for i in layers))


def shortened(folded: Encoder, layers: Sequence[int]) -> Encoder:
    """Return a folded encoder of these layers alone; embeddings and head are copied too."""
    whole = folded.state_dict()
    state = {name: value for name, value in whole.items() if not name.startswith("layers.")}
    for new, old in enumerate(layers):
        before = f"layers.{old}."
        parts = {name.removeprefix(before): value for name, value in whole.items() if name.startswith(before)}
        state |= {f"layers.{new}.{name}": value for name, value in parts.items()}
    return with_state(Encoder(shorter(folded.spec, layers)), state, folded)


class Mixed(nn.Module):
    """A student in which each layer is run with the probability `rate`, else the teacher's layers that it stands for.

    It shares the student's parameters, of which those outside the layers are frozen; the teacher's layers are a copy.
    """

    def __init__(self, teacher: Encoder, student: Encoder) -> None:
        super().__init__()
        self.rate, self.share = 1.0, len(teacher.layers) // len(student.layers)
        self.student = student
        self.teacher = copy.deepcopy(teacher.layers).requires_grad_(False).eval()  # type: ignore[attr-defined]
        student.requires_grad_(False)
        for layer in student.layers:
            layer.requires_grad_(True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return logits (B, labels) for token ids and mask (B, T), int64."""
        mask, student = attention_mask.bool(), self.student
        state = student.embeddings(input_ids, token_type_ids)
        replaced = [float(torch.rand(())) < self.rate for _ in student.layers]
        for i, own in enumerate(student.layers):
            for layer in [own] if replaced[i] else self.teacher[i * self.share : (i + 1) * self.share]:
                state = layer(state, mask)
        logits = student.classify(state, mask)
        # where the teacher's layers alone were run, a gradient of 0 is what the optimiser and its loss scale need
        return logits if any(replaced) else logits + 0 * student.layers[0].norm1.bias.sum()
