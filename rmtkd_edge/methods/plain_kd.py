"""Plain knowledge distillation (Hinton et al. 2015): a narrower model of random weights learns from the teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Batches, Family, Site, Spec, list_sites
from rmtkd_edge.methods.base import Cut, Method, Objective, Pair, Widths, align, distillation, fixed_rank, reduction

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model
    from rmtkd_edge.tasks.base import Task

BISECTIONS = 20


class PlainKd:
    """The baseline that RMT-KD is held against: same shape family, same loss, no knowledge of the teacher's weights."""

    name = "plain-kd"
    title = "Plain KD"
    iterative = False

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError where nothing would be trained, or where widths would come from closed forms."""
        if recipe.compress.one_shot:
            raise RecipeError(
                "compress.one_shot trains nothing, and plain-kd starts from random weights",
                "--set compress.one_shot=false",
            )
        if recipe.compress.allocation != "edge":
            raise RecipeError(
                f"compress.allocation = {recipe.compress.allocation} compares closed forms, plain-kd has none",
                "--set compress.allocation=edge",
            )
        if recipe.distil.match:
            raise RecipeError(
                "distil.match decodes a projection of the teacher's states, plain-kd starts from random weights",
                "--set distil.match=0",
            )
        if recipe.stop.target is None and not recipe.compress.ranks:
            raise RecipeError(
                "plain-kd chooses its widths by stop.target_reduction or compress.ranks, the recipe has neither",
                "--set stop.target_reduction=0.8",
            )

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> Widths:
        """Return the recipe's `compress.ranks`, else every site scaled by the one factor that meets the target."""
        names = family.sites_to_cut(spec, recipe.compress)
        sites = [site for site in list_sites(spec) if site.name in names]
        if recipe.compress.ranks:
            fixed = {site.name: rank for site in sites if (rank := fixed_rank(recipe.compress, site)) is not None}
            return Widths(fixed, f"{self.name}: widths from compress.ranks")
        target = recipe.stop.target or 0.0
        before = spec.count_parameters()

        def scaled(factor: float) -> dict[str, int]:
            return scaled_widths(sites, factor, multiple, recipe.compress.minimum_rank)

        factor = largest_factor(lambda at: reduction(spec, scaled(at), before) >= target)
        if factor is None:
            most = reduction(spec, scaled(0.0), before)
            raise RecipeError(
                f"the narrowest {len(sites)} sites remove {most:.1%} of the parameters, stop.target_reduction is "
                f"{target:.1%}",
                f"--set stop.target_reduction={max(most - 0.005, 0):.2f}, or more of compress.sites",
            )
        note = f"{self.name}: every width scaled by {factor:.3f} to meet stop.target_reduction = {target:g}"
        return Widths(scaled(factor), note)

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return a model of the narrower shape with random weights."""
        return family.initialise(family.build(teacher.spec.with_ranks(cut.widths)), recipe.seed)

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return alpha times the task's loss + (1 - alpha) times the divergence from the teacher."""
        return distillation(task, recipe.distil.alpha, recipe.distil.temperature)


def scaled_widths(sites: Sequence[Site], factor: float, multiple: int, minimum: int) -> dict[str, int]:
    """Return the width of every site times `factor`, rounded up to `multiple` and at least `minimum`."""
    return {s.name: align(math.ceil(factor * s.width), s.width, s.heads, multiple, minimum) for s in sites}


def largest_factor(small_enough: Callable[[float], bool]) -> float | None:
    """Return the largest factor in [0, 1], to about 1e-6, of a condition that holds below some factor, or None."""
    if not small_enough(0.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if small_enough(middle) else (low, middle)
    return low


METHOD: Method = PlainKd()
