"""Layers that several families are made of, and what folds a model of such layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.base import M


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


def along_outputs(matrix: Tensor, value: Tensor) -> Tensor:
    """Return a weight (m, ...) or bias (m,) whose first axis went through a matrix (n, m); contiguous."""
    return (matrix @ value.flatten(1)).reshape(-1, *value.shape[1:]) if value.ndim > 1 else matrix @ value


@torch.no_grad()
def folded_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the folded model: P W in place of every layer's parameters and its projection."""
    state = model.state_dict()
    for name in [key for key in state if key.rpartition(".")[2] == "projection"]:
        place, p = name.rpartition(".")[0], state.pop(name)
        for part, _ in model.get_submodule(place).named_parameters(recurse=False):
            state[f"{place}.{part}"] = along_outputs(p, state[f"{place}.{part}"])
    return state


@torch.no_grad()
def unfolded_state(
    folded: nn.Module, wide: nn.Module, producers: Mapping[str, Sequence[nn.Module]], projections: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state of `wide`, which equals `folded` with projections: P^T W' and P for every producer of a site."""
    state, like = folded.state_dict(), next(folded.parameters())
    names = {id(module): name for name, module in wide.named_modules()}
    for site in producers.keys() & projections.keys():
        p = projections[site].to(like)
        for layer in producers[site]:
            place = names[id(layer)]
            for part, _ in layer.named_parameters(recurse=False):
                state[f"{place}.{part}"] = along_outputs(p.T, state[f"{place}.{part}"])
            state[f"{place}.projection"] = p
    return state


def with_state(model: M, state: Mapping[str, Tensor], like: nn.Module) -> M:
    """Return `model` with a copy of a state, in the dtype, on the device and in the mode of another model."""
    model = model.to(next(like.parameters()))
    model.load_state_dict({name: value.clone() for name, value in state.items()})
    return model.train(like.training)


def copy_fitting(teacher: nn.Module, student: nn.Module) -> None:
    """Copy the tensors of a state that have the student's names and shapes."""
    own = student.state_dict()
    same = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(same, strict=False)
