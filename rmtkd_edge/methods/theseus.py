"""BERT-of-Theseus (Xu et al. 2020, arXiv 2002.02925): the student's layers take the teacher's places one by one.

Layers, schedule and what is frozen are those of JetRunner/BERT-of-Theseus (bert_of_theseus/modeling_bert_of_theseus.py,
replacement_scheduler.py): each layer of the student stands for as many of the teacher's, for every batch and layer a
coin decides which of them run, and the loss is the task's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.methods.base import Method, Objective, Pair
from rmtkd_edge.methods.students import Shorter, divisors

if TYPE_CHECKING:
    from torch import nn

    from rmtkd_edge.tasks.base import Task

FIRST = 0.3  # probability of the student's layer at the first step
WHOLE = 0.5  # share of the steps from which it is 1


class Theseus(Shorter):
    """The task's loss of a model between teacher and student; embeddings, pooler and classifier stay the teacher's."""

    name = "theseus"
    title = "BERT-of-Theseus"
    one_process = True
    labels_only = True

    def depths(self, layers: int) -> Sequence[int]:
        """Return the divisors of the teacher's depth."""
        return divisors(layers)

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss, with the model between the two in the student's place."""
        mixed = pair.family.mixed(pair.teacher, pair.student)

        def replace_more(done: float) -> None:
            mixed.rate = replacing_rate(done)

        return Objective(
            lambda student, batch, _: task.loss(student.outputs, batch),
            teacher=False,
            stand_in=cast("nn.Module", mixed),
            on_step=replace_more,
        )


def replacing_rate(done: float) -> float:
    """Return the probability of the student's layer once a share of the steps is done: linear, then 1."""
    return min(1.0, FIRST + (1 - FIRST) * done / WHOLE)


METHOD: Method = Theseus()
