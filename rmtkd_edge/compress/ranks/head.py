"""The last layer of a closed form, fitted to the task's divergence from the teacher.

Least squares counts all outputs alike. A divergence of probabilities hardly counts those that the teacher is certain
of, and most of the training rows are of that kind: fitted to it, the last layer leaves its errors there. The problem is
convex for every task's divergence, has one linear layer of unknowns, and takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rmtkd_edge.compress.context import Context
from rmtkd_edge.families.base import call
from rmtkd_edge.tasks.base import Batch

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

EVERY = 2  # of the rows that the closed form is fitted on: a layer needs few, and both models have to see them again
RIDGE = 0.003  # of the mean square of a feature: the penalty on what is added to the least-squares weights
STEPS = 50  # of L-BFGS


def fit_head(context: Context, teacher: Model, student: Model) -> None:
    """Fit the student's last linear layer to the teacher's outputs, in place; nothing where its outputs are no layer's.

    The rows are half of those that the closed form is fitted on, the same in every process, so that all find the same
    weights.
    """
    layer = student.output_layer
    if layer is None:
        return
    batches = [{name: rows[::EVERY] for name, rows in batch.items()} for batch in context.data.warm()]
    features, targets = seen(context, teacher, student, layer, batches)
    least = layer.weight.detach().double().cpu()
    weight, bias = least.clone().requires_grad_(), layer.bias.detach().double().cpu().requires_grad_()
    rows = sum(map(len, targets))
    size = sum(float(x.square().mean()) * len(x) for x in features) / rows

    def lost() -> Tensor:
        total = RIDGE * size * (weight - least).square().sum()
        for x, target, batch in zip(features, targets, batches, strict=True):
            found = nn.functional.linear(x.double(), weight, bias)
            total = total + len(x) / rows * context.task.divergence(target.double(), found, batch=batch)
        return total

    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = lost()
        loss.backward()
        return loss

    with torch.enable_grad():
        before = float(lost().detach())
        optimiser.step(step)
        after = float(lost().detach())
    if after < before:  # so not where it is no number
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


@torch.no_grad()
def seen(
    context: Context, teacher: Model, student: Model, layer: nn.Module, batches: Sequence[Batch]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what a layer of the student reads and what the teacher gives, batch by batch, on the CPU."""
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
    return features, targets
