"""Fewer layers, in a cycle of its own before any width is cut: those without which the outputs move least.

One layer after the other is left out, the one whose loss moves the outputs least (the task's divergence, on rows of
train) given those that went before: layers stand in for each other, so that they are not judged once for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.ranks.cut import divergence, outputs_of
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Spec, list_sites
from rmtkd_edge.methods.base import Method
from rmtkd_edge.methods.students import counted, layers_of
from rmtkd_edge.run.records.cycle import JobRecord

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

DEPTH_CYCLE = 1


def check_depth(spec: Spec, recipe: Recipe, method: Method) -> None:
    """Raise RecipeError where `compress.layers` cannot be followed."""
    wanted = recipe.compress.layers
    if wanted is None:
        return
    if not method.iterative:
        raise RecipeError(f"{method.name} trains once, and compress.layers is a cycle of its own", "leave it out")
    if wanted >= layers_of(spec):
        raise RecipeError(
            f"compress.layers = {wanted}, and the model has {counted(layers_of(spec))}", "name fewer, or leave it out"
        )


def depth_job(context: Context, spec: Spec) -> JobRecord | None:
    """Return the cycle that leaves layers out, None where the recipe keeps them all."""
    wanted = context.recipe.compress.layers
    if wanted is None:
        return None
    sites = tuple(site.name for site in list_sites(spec) if site.layer is not None)
    return JobRecord(1, sites, context.recipe.analyse.quantile, False, layers=wanted)


def layers_that_stay(context: Context, folded: Model, wanted: int) -> tuple[int, ...]:
    """Return the numbers, from 0, of the layers that a model keeps."""
    before, stay = outputs_of(context, folded), tuple(range(layers_of(folded.spec)))
    while len(stay) > wanted:
        moved = {}
        for gone in stay:
            left = tuple(layer for layer in stay if layer != gone)
            moved[left] = divergence(context, before, outputs_of(context, context.family.shortened(folded, left)))
        stay = min(moved, key=moved.__getitem__)
        told = ", ".join(str(layer) for layer in stay)
        context.report("note", text=f"layers {told} stay: divergence from the teacher {moved[stay]:.2e}")
    return stay


def layers_kept(context: Context, spec: Spec) -> tuple[int, ...] | None:
    """Return the layers of the original that a shape still has, None where these are all."""
    assert context.original is not None, "the loop has started"
    if layers_of(spec) == layers_of(context.original.spec):
        return None
    first = context.store.get_plan(DEPTH_CYCLE)
    assert first is not None and first.layers is not None, "layers went in the first cycle"
    return first.layers
