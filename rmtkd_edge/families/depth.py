"""Models of fewer layers: the shape, the weights of the layers that stay, and a training between the two."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rmtkd_edge.families.base import S, find_family
from rmtkd_edge.families.layers import with_state


def shorter(spec: S, layers: Sequence[int]) -> S:
    """Return the shape of these layers, by their numbers from 0, alone."""
    kept = tuple(spec.layers[i] for i in layers)  # type: ignore[attr-defined]
    return replace(spec, layers=kept)  # type: ignore[type-var]


def shortened(folded: Any, layers: Sequence[int]) -> Any:
    """Return a folded model of these layers alone; what is no layer is copied too."""
    whole = folded.state_dict()
    state = {name: value for name, value in whole.items() if not name.startswith("layers.")}
    for new, old in enumerate(layers):
        before = f"layers.{old}."
        parts = {name.removeprefix(before): value for name, value in whole.items() if name.startswith(before)}
        state |= {f"layers.{new}.{name}": value for name, value in parts.items()}
    spec = shorter(folded.spec, layers)
    return with_state(find_family(spec.family).build(spec), state, folded)


class Mixed(nn.Module):
    """A student in which each layer is run with the probability `rate`, else the teacher's layers that it stands for.

    It shares the student's parameters, of which those outside the layers are frozen; the teacher's layers are a copy.
    """

    def __init__(self, teacher: Any, student: Any) -> None:
        super().__init__()
        self.rate, self.share = 1.0, len(teacher.layers) // len(student.layers)
        self.student = student
        self.teacher = copy.deepcopy(teacher.layers).requires_grad_(False).eval()
        student.requires_grad_(False)
        for layer in student.layers:
            layer.requires_grad_(True)

    def through(self, state: Tensor, context: Any) -> Tensor:
        """Return a state (B, T, d) after the layers, drawn anew; `context` is what every layer is called with."""
        replaced = [float(torch.rand(())) < self.rate for _ in self.student.layers]
        for i, own in enumerate(self.student.layers):
            for layer in [own] if replaced[i] else self.teacher[i * self.share : (i + 1) * self.share]:
                state = layer(state, context)
        # where the teacher's layers alone were run, a gradient of 0 is what the optimiser and its loss scale need
        return state if any(replaced) else state + 0 * next(self.student.layers.parameters()).sum()
