"""Spectra in, narrowed model out: what a cycle does once, and what allocation and prices do to compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.data import Batches
from rmtkd_edge.compress.parallel import agreed, own_rows
from rmtkd_edge.compress.ranks.edge import Choose, SiteRank, choose_ranks
from rmtkd_edge.compress.ranks.output_layer import fit_output_layer
from rmtkd_edge.compress.ranks.projection import projection
from rmtkd_edge.families.base import AnalyseOptions, NarrowOptions, Spec, call, list_sites, ranks_of
from rmtkd_edge.families.spectrum import SiteSpectrum
from rmtkd_edge.methods.base import Cut

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model


def spectra_of(context: Context, folded: Model, names: Collection[str]) -> list[SiteSpectrum]:
    """Return the spectra of the named sites of a folded model, shallow to deep."""
    recipe, task, data = context.recipe, context.task, context.data
    sites = [site for site in list_sites(folded.spec) if site.name in names]
    options = AnalyseOptions(
        analyse=recipe.analyse,
        select=recipe.compress.channels == "select",
        seed=recipe.seed,
        probe=lambda outputs, batch: task.probe(outputs, dict(batch), recipe.seed),
    )
    model = folded.to(context.accelerator.device)
    return context.family.analyse(
        model, sites, own_batches(context, data.analysis), own_batches(context, data.effect), options
    )


def chooser(context: Context, spec: Spec, spectra: Sequence[SiteSpectrum], rule: str | None = None) -> Choose:
    """Return what gives the ranks of sites at a quantile of a rule (None: the recipe's), as the family settles them."""
    recipe = context.recipe
    if rule is not None:
        recipe = recipe.model_copy(update={"analyse": recipe.analyse.model_copy(update={"rule": rule})})
    settle = context.family.settle(spec, recipe.compress, context.predict_ms, context.multiple)
    return lambda at, offsets, held: choose_ranks(spectra, recipe, at, context.step, offsets, settle, held)


def projected(chosen: Sequence[SiteRank], context: Context) -> Cut:
    """Return the new widths and fixed projections of the sites that get narrower."""
    cut = [c for c in chosen if c.width_after < c.spectrum.site.width]
    projections = {c.name: projection(c.spectrum, c.width_after, context.recipe.compress) for c in cut}
    return Cut({c.name: c.width_after for c in cut}, projections)


def narrowed(context: Context, folded: Model, cut: Cut) -> tuple[Model, dict[str, Tensor]]:
    """Return the narrowed folded model that the method starts from, and its new projections by site."""
    data, recipe = context.data, context.recipe
    teacher = folded.to(context.accelerator.device)
    warm, effect = own_batches(context, data.warm), own_batches(context, data.effect)
    student = context.method.initial_student(context.family, teacher, cut, warm, effect, recipe)
    student = student.to(context.accelerator.device)
    if cut.projections and recipe.compress.fits_output_layer:
        fit_output_layer(context, teacher, student)
    there = ranks_of(student.spec)  # a factor no narrower than its site is none
    new = {name: p for name, p in cut.projections.items() if name in there}
    return student, new


def narrower(context: Context, folded: Model) -> Callable[[Cut], Model]:
    """Return what narrows a folded model in closed form, for many cuts that are only compared, on the trial rows."""
    data, recipe = context.data, context.recipe
    teacher = folded.to(context.accelerator.device)
    trial, effect = own_batches(context, data.trial), own_batches(context, data.effect)
    narrow = context.family.narrower(teacher, trial, effect, NarrowOptions.of(recipe))
    return lambda cut: narrow(cut.projections).to(context.accelerator.device)


@torch.no_grad()
def outputs_of(context: Context, model: Model) -> list[Tensor]:
    """Return a model's outputs on the rows that closed forms are compared on, float64, batch by batch."""
    model = model.to(context.accelerator.device).eval()
    return [call(model, batch).double().cpu() for batch in own_rows(context.data.judged(), context.accelerator)]


def divergence(context: Context, before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the task's mean divergence over rows of two models' outputs, agreed on by all processes.

    Roundoff below zero counts as zero; a model whose outputs are not finite is infinitely far.
    """
    batches = own_rows(context.data.judged(), context.accelerator)
    total = sum(
        float(context.task.divergence(old, new, batch={k: v.cpu() for k, v in batch.items()})) * len(old)
        for old, new, batch in zip(before, after, batches, strict=True)
    )
    mean = total / sum(map(len, before))
    return agreed(max(mean, 0.0) if math.isfinite(mean) else math.inf, context.accelerator)


def own_batches(context: Context, batches: Batches) -> Batches:
    """Return the rows of batches that are this process's."""
    return lambda: own_rows(batches(), context.accelerator)
