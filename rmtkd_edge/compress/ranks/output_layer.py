"""The output layer of a closed form, fitted to the task's divergence from the teacher.

Least squares counts all outputs alike. A divergence of probabilities hardly counts those that the teacher is certain
of, and most of the training rows are of that kind: fitted to it, the output layer leaves its errors there. The problem
is convex, has one linear layer of unknowns, and takes a fraction of a second; both models' outputs take longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rmtkd_edge.compress.context import Context
from rmtkd_edge.families.base import call
from rmtkd_edge.tasks.base import Batch, Task

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

EVERY = 2  # of the rows that the closed form is fitted on: a layer needs few, and both models have to see them again
RIDGES = (0.1, 0.01, 0.003)  # of the mean square of a feature: penalties on what is added to the least-squares weights
STEPS = 50  # of L-BFGS


@dataclass(frozen=True)
class Rows:
    """What the output layer reads of some rows, and what the teacher gives, batch by batch, float32 on the CPU."""

    task: Task[Any]
    batches: Sequence[Batch]
    features: Sequence[Tensor]
    targets: Sequence[Tensor]

    @property
    def feature_size(self) -> float:
        """Return the mean square of a feature."""
        return sum(float(x.square().sum()) for x in self.features) / sum(x.numel() for x in self.features)

    def divergence(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the mean divergence over rows of a layer's outputs from the teacher's, in float64."""
        rows, total = sum(map(len, self.targets)), weight.new_zeros(())
        for x, target, batch in zip(self.features, self.targets, self.batches, strict=True):
            found = nn.functional.linear(x.double(), weight, bias)
            total = total + len(x) / rows * self.task.divergence(target.double(), found, batch=batch)
        return total


def fit_output_layer(context: Context, teacher: Model, student: Model) -> None:
    """Fit the student's output layer to the teacher's outputs, in place; nothing where its outputs are no layer's.

    The rows are half of those that the closed form is fitted on. How far the weights may go, or whether they stay, is
    decided by those that closed forms are compared on, which neither fit has seen. Every process takes all of them, so
    that all find the same weights.
    """
    layer = student.output_layer
    if layer is None:
        return
    half = [{name: rows[::EVERY] for name, rows in batch.items()} for batch in context.data.warm()]
    fitted = rows_of(context, teacher, student, layer, half)
    unseen = rows_of(context, teacher, student, layer, list(context.data.judged()))
    start = layer.weight.detach().double().cpu(), layer.bias.detach().double().cpu()
    least_squares = float(unseen.divergence(*start))
    lowest, best = least_squares, start
    for ridge in RIDGES:
        found = closest(fitted, start, ridge)
        reached = float(unseen.divergence(*found))
        if reached < lowest:
            lowest, best = reached, found
    with torch.no_grad():
        layer.weight.copy_(best[0])
        layer.bias.copy_(best[1])
    told = f"fitted to it {lowest:.2e}" if lowest < least_squares else "no fit to it is nearer"
    where = "output layer: divergence from the teacher, on rows that no fit has seen"
    context.report("note", text=f"{where}, by least squares {least_squares:.2e}, {told}")


@torch.enable_grad()
def closest(rows: Rows, start: tuple[Tensor, Tensor], ridge: float) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of the least divergence plus penalty, from least-squares ones, float64."""
    weight, bias = (value.clone().requires_grad_() for value in start)
    penalty = ridge * rows.feature_size
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = rows.divergence(weight, bias) + penalty * (weight - start[0]).square().sum()
        loss.backward()
        return loss

    optimiser.step(step)
    return weight.detach(), bias.detach()


@torch.no_grad()
def rows_of(context: Context, teacher: Model, student: Model, layer: nn.Module, batches: Sequence[Batch]) -> Rows:
    """Return what a layer of the student reads of batches, and what the teacher gives."""
    features: list[Tensor] = []
    targets: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: features.append(args[0].float().cpu()))
    try:
        for batch in batches:
            there = {name: rows.to(context.accelerator.device) for name, rows in batch.items()}
            call(student.eval(), there)
            targets.append(call(teacher.eval(), there).float().cpu())
    finally:
        hook.remove()
    return Rows(context.task, batches, features, targets)
