"""Layers that several families are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ProjectedLinear(nn.Module):
    """A linear layer with, where its output site was cut, a fixed projection P (k x d, orthonormal rows) after it."""

    projection: Tensor | None

    def __init__(self, inputs: int, outputs: int, raw: int | None = None) -> None:
        super().__init__()
        wide = outputs if raw is None else raw
        self.weight = nn.Parameter(torch.empty(wide, inputs))
        self.bias = nn.Parameter(torch.empty(wide))
        self.register_buffer("projection", None if raw is None else torch.empty(outputs, wide))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the weight (k, in) and bias (k,) of the one narrow layer that this one equals."""
        if self.projection is None:
            return self.weight, self.bias
        return self.projection @ self.weight, self.projection @ self.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., k); P W is formed first, which costs less than projecting every row."""
        return F.linear(x, *self.folded())


def set_dropout(model: nn.Module, p: float) -> None:
    """Set the probability of every dropout layer of a model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


def copy_fitting(teacher: nn.Module, student: nn.Module) -> None:
    """Copy the tensors of a state that have the student's names and shapes."""
    own = student.state_dict()
    same = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(same, strict=False)
