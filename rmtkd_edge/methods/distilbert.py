"""Task-DistilBERT (Sanh et al. 2019, arXiv 1910.01108): every other layer of the teacher, its outputs, and its states.

Loss and layers are those of huggingface/transformers, research_projects/distillation (distiller.py,
scripts/extract_distilbert.py), on the task's labels in place of masked words: there is no corpus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.methods.base import Method, Objective, Pair, Seen
from rmtkd_edge.methods.students import Shorter

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.tasks.base import Batch, Task


class DistilBert(Shorter):
    """Plain distillation + 1 minus the cosine of the last states, mean over tokens."""

    name = "distilbert"
    title = "task-DistilBERT"
    needs_labels = False

    def kept(self, layers: int, depth: int) -> tuple[int, ...]:
        """Return layers from the first to the last at even distances: 0, 2, 4, 7, 9, 11 of twelve."""
        return (0,) if depth == 1 else tuple(round(i * (layers - 1) / (depth - 1)) for i in range(depth))

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss."""
        base = super().objective(task, recipe, pair)
        own, other = (pair.family.stream_taps(model.spec)[-1] for model in (pair.student, pair.teacher))

        def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
            assert teacher is not None, "the objective asks for a teacher"
            states = pair.family.rows(student.taps[own], batch), pair.family.rows(teacher.taps[other], batch)
            return base.loss(student, batch, teacher if base.teacher else None) + cosine_distance(*states)

        return Objective(loss, taps=(own, other))


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of 1 - cos of rows (n, d)."""
    from torch.nn import functional as F

    return 1 - F.cosine_similarity(student.float(), teacher.float()).mean()


METHOD: Method = DistilBert()
