"""FitNet (Romero et al. 2015, arXiv 1412.6550): the student's second stage, through a regressor, gives the teacher's.

The one-stage form of HobbitLong/RepDistiller (train_student.py, models/util.py `ConvReg`, distiller_zoo/FitNet.py):
hint and labels are learnt together, and the regressor is a 1 x 1 convolution, a batch norm and a ReLU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.methods.base import Method, Objective, Pair, Seen
from rmtkd_edge.methods.students import Narrower, seeded, shapes_at

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rmtkd_edge.tasks.base import Batch, Task

WEIGHT = 100.0
HINT = 2  # the stage, from 1


class FitNet(Narrower):
    """The task's loss + 100 times the mean squared error of the regressed hint."""

    name = "fitnet"
    title = "FitNet"
    needs = "stages"
    labels_only = True

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss, whose helper is the regressor."""
        from torch.nn import functional as F

        tap = pair.family.stage_taps(pair.student.spec)[HINT - 1]
        ((own, other),) = shapes_at(pair, [tap])
        helper = seeded(recipe.seed, lambda: regressor(own[1], other[1]))

        def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
            assert teacher is not None, "the objective asks for a teacher"
            hint = F.mse_loss(helper(student.taps[tap].float()), teacher.taps[tap].float())
            return task.loss(student.outputs, batch) + WEIGHT * hint

        return Objective(loss, taps=(tap,), helper=helper)


def regressor(inputs: int, outputs: int) -> nn.Module:
    """Return a 1 x 1 convolution, a batch norm and a ReLU."""
    from torch import nn

    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())


METHOD: Method = FitNet()
