"""RMT-KD (arXiv 2509.15724): ranks from the Marchenko-Pastur edge, a closed form, and self-distillation in cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.base import Batches, Family, NarrowOptions, Spec
from rmtkd_edge.methods.base import Cut, Method, Objective, Pair

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model
    from rmtkd_edge.tasks.base import Task


class RmtKd:
    """The spectra decide the widths; every cycle learns from the model before it, or from the original."""

    name = "rmt-kd"
    title = "RMT-KD"
    iterative = True
    needs_labels = False

    def check(self, recipe: Recipe, family: Family) -> None:
        """Accept every recipe."""

    def settings(self, recipe: Recipe) -> Recipe:
        """Return the recipe as it is."""
        return recipe

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> None:
        """Leave the widths to the spectra."""

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return the family's closed form of the projected teacher, or its layers that stay."""
        if cut.layers is not None:
            return family.shortened(teacher, cut.layers)
        return family.narrow(teacher, cut.projections, warm, effect, NarrowOptions.of(recipe))

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return alpha times the task's loss + (1 - alpha) times the divergence from the model that teaches.

        Where `distil.match` says so, inner states are matched too.
        """
        from rmtkd_edge.methods.matching import recipe_objective

        return recipe_objective(task, recipe, pair)


METHOD: Method = RmtKd()
