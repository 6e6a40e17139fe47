"""Contrastive representation distillation (Tian et al. 2020, arXiv 1910.10699): a row's features of both models agree.

The features that the classifier reads are embedded in 128 dimensions, for student and teacher; two memories hold the
last embedding of every training row, from which the negatives come. Formulas and constants are those of
HobbitLong/RepDistiller (crd/criterion.py, crd/memory.py), with fewer negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.methods.base import Method, Objective, Pair, Seen
from rmtkd_edge.methods.students import Narrower, seeded, shapes_at

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.tasks.base import Batch, Task

WEIGHT = 0.8
NEGATIVES = 4096  # at most, and at most a quarter of the rows; the authors draw 16,384 of 50,000


class Crd(Narrower):
    """The task's loss + 0.8 times the contrastive loss, with the student and with the teacher as the anchor."""

    name = "crd"
    title = "CRD"
    needs = "features"
    one_process = True
    labels_only = True

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss, whose helper holds embeddings and memories; raise RecipeError for rows without numbers."""
        import torch

        from rmtkd_edge.methods.contrast import Contrast

        if pair.rows is None:
            raise RecipeError("crd remembers every training row, and these have no numbers", "compress a recipe")
        tap, rows = pair.family.feature_tap, pair.rows
        ((own, other),) = shapes_at(pair, [tap])
        helper = seeded(recipe.seed, lambda: Contrast(own[1], other[1], rows, min(NEGATIVES, rows // 4)))

        def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
            assert teacher is not None, "the objective asks for a teacher"
            labels = torch.from_numpy(task.targets(batch)).to(batch["index"])
            contrast = helper(student.taps[tap].float(), teacher.taps[tap].float(), batch["index"], labels)
            return task.loss(student.outputs, batch) + WEIGHT * contrast

        return Objective(loss, taps=(tap,), helper=helper)


METHOD: Method = Crd()
