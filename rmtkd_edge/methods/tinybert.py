"""TinyBERT's task distillation (Jiao et al. 2020, arXiv 1909.10351): attention and states first, then the outputs.

Losses and layers are those of huawei-noah/Pretrained-Language-Model (TinyBERT/task_distill.py). There is no general
distillation on a corpus and no augmented data: the student starts from random weights and sees the task's rows alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Family, Spec, list_sites
from rmtkd_edge.methods.base import Method, Objective, Pair, Seen, Widths
from rmtkd_edge.methods.students import Narrower, counted, divisors, layers_of, seeded, shapes_at

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.tasks.base import Batch, Task

INNER = 0.5  # share of the steps that attention and states are learnt in
MASKED = -100.0  # scores up to this are those of padding, and count as 0


class TinyBert(Narrower):
    """Half of the layers (TinyBERT-6) where that comes nearest to the target, else a third, narrower (TinyBERT-4)."""

    name = "tinybert"
    title = "TinyBERT"
    needs_labels = False
    needs = "attention"
    one_process = True
    labels_only = True

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> Widths:
        """Return the shape of the student, of which every layer stands for as many of the teacher's."""
        if recipe.compress.ranks:
            return super().widths(spec, family, recipe, multiple)
        layers, before, target = layers_of(spec), spec.count_parameters(), recipe.stop.target or 0.0
        if layers < 2:
            raise RecipeError(
                f"{self.name} leaves layers out, and the teacher has {counted(layers)}", "--method plain-kd"
            )
        half, third = (max(d for d in divisors(layers) if d <= max(1, layers // share)) for share in (2, 3))
        removed = [1 - family.shorter(spec, range(depth)).count_parameters() / before for depth in (half, third)]
        if target <= sum(removed) / 2:  # nearer to half of the layers than to a third
            return Widths({}, self.note(f"{half} of {layers} layers, at full width"), tuple(range(half)))
        names = family.sites_to_cut(spec, recipe.compress)
        sites = [s for s in list_sites(spec) if s.name in names and (s.layer is None or s.layer < third)]
        return self.meeting_target(spec, family, sites, recipe, multiple, tuple(range(third)))

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss of the first stage, then that of the second; one linear map serves all states."""
        from torch import nn
        from torch.nn import functional as F

        family, narrow, wide = pair.family, pair.student.spec, pair.teacher.spec
        share = layers_of(wide) // layers_of(narrow)
        own, other = family.stream_taps(narrow), family.stream_taps(wide)[::share]
        ((before, after),) = shapes_at(pair, own[:1])
        dense = seeded(recipe.seed, lambda: nn.Linear(before[-1], after[-1]))
        done = 0.0

        def begin(share_done: float) -> None:
            nonlocal done
            done = share_done

        def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
            assert teacher is not None, "the objective asks for a teacher"
            if done >= INNER:  # the soft cross-entropy, less the teacher's entropy
                return task.divergence(teacher.outputs, student.outputs, 1.0, batch) / student.outputs.shape[-1]
            total = student.outputs.new_zeros(())
            for i in range(layers_of(narrow)):
                scores = family.attention_scores(narrow, i, student.taps, batch)
                target = family.attention_scores(wide, (i + 1) * share - 1, teacher.taps, batch)
                total = total + F.mse_loss(unmasked(scores), unmasked(target))
            for state, reference in zip(own, other, strict=True):
                total = total + F.mse_loss(dense(student.taps[state].float()), teacher.taps[reference].float())
            return total

        attention = [taps for spec in (narrow, wide) for layer in family.attention_taps(spec) for taps in layer]
        taps = tuple(dict.fromkeys((*own, *other, *attention)))
        return Objective(loss, taps=taps, helper=dense, on_step=begin)


def unmasked(scores: Tensor) -> Tensor:
    """Return attention scores with 0 in place of those of padding."""
    return scores.masked_fill(scores <= MASKED, 0.0)


METHOD: Method = TinyBert()
