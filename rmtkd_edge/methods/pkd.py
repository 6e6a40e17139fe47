"""Patient knowledge distillation (Sun et al. 2019, arXiv 1908.09355), PKD-Skip: what inner layers say of the sequence.

Loss and layers are those of intersun/PKD-for-BERT-Model-Compression (src/KD_loss.py, BERT_KD.py), its divergence as a
mean over rows and classes. With their a, `distil.alpha` is 1 - a; they try a = 0.2, 0.5, 0.7 and temperatures of 5, 10,
20.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.methods.base import Method, Objective, Pair, Seen
from rmtkd_edge.methods.students import Shorter, layers_of

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.tasks.base import Batch, Task

BETA = 100.0


class Pkd(Shorter):
    """alpha times the task's loss + (1 - alpha) times the divergence of a class + 100 times that of the states."""

    name = "pkd"
    title = "PKD-Skip"

    def patient(self, layers: int, depth: int) -> list[int]:
        """Return, for every layer of a student but its last, the teacher's layer: the last of its equal share."""
        return [(i + 1) * layers // depth - 1 for i in range(depth - 1)]

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss."""
        family, alpha, temperature = pair.family, recipe.distil.alpha, recipe.distil.temperature
        own, other = (family.stream_taps(model.spec)[1:] for model in (pair.student, pair.teacher))  # after each layer
        layers, depth = layers_of(pair.teacher.spec), layers_of(pair.student.spec)
        pairs = [(own[i], other[j]) for i, j in enumerate(self.patient(layers, depth))]

        def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
            assert teacher is not None, "the objective asks for a teacher"
            divergence = task.divergence(teacher.outputs, student.outputs, temperature, batch)
            found = alpha * task.loss(student.outputs, batch)
            found = found + (1 - alpha) * divergence / student.outputs.shape[-1]
            if not pairs:
                return found
            narrow = [family.classified(student.taps[tap]) for tap, _ in pairs]
            wide = [family.classified(teacher.taps[tap]) for _, tap in pairs]
            return found + BETA * patience(narrow, wide)

        return Objective(loss, taps=tuple(dict.fromkeys(tap for both in pairs for tap in both)))


def patience(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the mean squared difference of states (B, d), layer by layer, each scaled to norm 1."""
    import torch
    from torch.nn import functional as F

    own, other = (F.normalize(torch.stack(states).float(), dim=-1) for states in (student, teacher))
    return F.mse_loss(own, other)


METHOD: Method = Pkd()
