"""`rmtkd-edge compress --dry-run`: what a recipe reads, aims at and takes; nothing is written, no training is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.depth import check_depth
from rmtkd_edge.compress.forecast.cost import cost_of
from rmtkd_edge.compress.forecast.targets import shape_at, sites_of, target_of
from rmtkd_edge.compress.forecast.teacher import look_at
from rmtkd_edge.compress.latency import predictor
from rmtkd_edge.compress.prepared import Prepared
from rmtkd_edge.compress.stage import check_sites
from rmtkd_edge.compress.vocabulary import fewer_tokens
from rmtkd_edge.config.hardware import HardwareProfile, graph_for
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.records.dry_run import DryRun
from rmtkd_edge.run.reporter import Reporter

HOW = (
    "time and memory are an estimate: a few steps of the training were timed here, spectra and closed forms counted as "
    "passes over their rows; the loop ends earlier where a target is met, and a cycle under the floor is trained twice"
)


def dry_run(
    recipe: Recipe,
    ready: Prepared,
    profiles: Mapping[str, HardwareProfile],
    reporter: Reporter,
    data: Path | None = None,
) -> DryRun:
    """Return what a compression would do.

    Args:
        profiles: hardware profiles by name, the recipe's own among them.
        data: the user's rows, which a smaller vocabulary reads again.

    Raises:
        RecipeError: the recipe names sites that the model has not.
        UserError, DataError: the model cannot be loaded, or does not go with the data.
    """
    reporter.event("stage", name="model")
    looked = look_at(recipe, ready)
    spec = looked.model.spec
    check_sites(spec, recipe, ready.family)
    check_depth(spec, recipe, ready.method)
    fewer, model, vocabulary = fewer_tokens(recipe, ready, looked.model, data)
    layers, start = recipe.compress.layers, model.spec
    if layers is not None:
        start = ready.family.shorter(start, range(layers))
    context = Context(
        recipe=ready.method.settings(recipe),
        family=ready.family,
        task=ready.task,
        method=ready.method,
        data=fewer.data,
        accelerator=ready.accelerator,
        store=cast(Any, None),  # no cycle is run
        report=reporter.event,
        multiple=ready.multiple,
        teacher_parameters=spec.count_parameters(),
        teacher_scores=looked.scores,
        profile=ready.profile,
    )
    aimed = [context.aiming_at(target, fallback=False) for target in recipe.stop.targets]
    targets = tuple(target_of(each, spec, start, profiles) for each in aimed)
    own = [shape_at(each, start, context.step).spec for each in aimed]
    reporter.event("stage", name="a few steps of the training")
    test = ready.dataset.validation if ready.dataset.test is None else ready.dataset.test
    subsets = ready.task.subsets(replace(fewer.dataset, train=fewer.dataset.learnt), recipe)
    return DryRun(
        data=ready.task.summary(ready.dataset),
        teacher=looked.forecast,
        sites=sites_of(context, start),
        targets=targets,
        cost=cost_of(
            context, replace(looked, model=model), [shape for shape in own if shape is not None], subsets, len(test)
        ),
        graph=graph_for(recipe.export.graph, ready.profile),
        without_curves=tuple(name for name, profile in profiles.items() if predictor(ready.family, profile) is None),
        notes=(HOW,) if vocabulary is None else (vocabulary.describe(), HOW),
    )
