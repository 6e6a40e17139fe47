"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928): where in the image the teacher is active.

Of what every stage gives, the map is the mean over channels of the squared activations, scaled to norm 1. Loss and
weight are those of the authors' repository szagoruyko/attention-transfer (utils.py, cifar.py), trained on the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.methods.base import Method, Objective, Pair, Seen
from rmtkd_edge.methods.students import Narrower

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.tasks.base import Batch, Task

WEIGHT = 1000.0


class At(Narrower):
    """The task's loss + 1000 times the squared distance of the attention maps, summed over stages."""

    name = "at"
    title = "AT"
    needs = "stages"
    labels_only = True

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss."""
        taps = pair.family.stage_taps(pair.student.spec)

        def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
            assert teacher is not None, "the objective asks for a teacher"
            maps = sum(map_distance(student.taps[tap], teacher.taps[tap]) for tap in taps)
            return task.loss(student.outputs, batch) + WEIGHT * maps

        return Objective(loss, taps=taps)


def map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the attention maps of activations (B, C, H, W)."""
    return (attention_map(student) - attention_map(teacher)).square().mean()


def attention_map(activation: Tensor) -> Tensor:
    """Return the map (B, H W), of norm 1, of activations (B, C, H, W)."""
    from torch.nn import functional as F

    return F.normalize(activation.float().square().mean(1).flatten(1))


METHOD: Method = At()
