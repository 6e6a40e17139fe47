"""Vision transformers of fewer layers: the shape, the weights of those that stay, and a training between the two."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rmtkd_edge.families.layers import state_of_layers, with_state
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.spec import VitSpec


def shorter(spec: VitSpec, layers: Sequence[int]) -> VitSpec:
    """Return the shape of these layers, by their numbers from 0, alone."""
    return replace(spec, layers=tuple(spec.layers[i] for i in layers))


def shortened(folded: VisionTransformer, layers: Sequence[int]) -> VisionTransformer:
    """Return a folded model of these layers alone; embeddings, last norm and classifier are copied too."""
    state = state_of_layers(folded.state_dict(), layers)
    return with_state(VisionTransformer(shorter(folded.spec, layers)), state, folded)


class Mixed(nn.Module):
    """A student in which each layer is run with the probability `rate`, else the teacher's layers that it stands for.

    It shares the student's parameters, of which those outside the layers are frozen; the teacher's layers are a copy.
    """

    def __init__(self, teacher: VisionTransformer, student: VisionTransformer) -> None:
        super().__init__()
        self.rate, self.share = 1.0, len(teacher.layers) // len(student.layers)
        self.student = student
        self.teacher = copy.deepcopy(teacher.layers).requires_grad_(False).eval()  # type: ignore[attr-defined]
        student.requires_grad_(False)
        for layer in student.layers:
            layer.requires_grad_(True)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        student = self.student
        state = student.embedded(pixel_values)
        replaced = [float(torch.rand(())) < self.rate for _ in student.layers]
        for i, own in enumerate(student.layers):
            for layer in [own] if replaced[i] else self.teacher[i * self.share : (i + 1) * self.share]:
                state = layer(state)
        logits = student.classifier(student.pooled(student.norm(state)))
        # where the teacher's layers alone were run, a gradient of 0 is what the optimiser and its loss scale need
        return logits if any(replaced) else logits + 0 * student.layers[0].norm1.bias.sum()
