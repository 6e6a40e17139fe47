"""The original of a compression before it starts: what it scores, and whether it would be trained first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rmtkd_edge.compress.learnt import baseline_value, chance, check_loaded
from rmtkd_edge.compress.training.evaluate import evaluate, outputs_of
from rmtkd_edge.errors import UserError
from rmtkd_edge.run.records.dry_run import TeacherForecast
from rmtkd_edge.tasks.base import Batch

if TYPE_CHECKING:
    from rmtkd_edge.compress.prepared import Prepared
    from rmtkd_edge.config.recipe import Recipe
    from rmtkd_edge.families.model import Model
    from rmtkd_edge.run.records.scores import Scores

SECONDS = 15.0  # of looking at validation rows


@dataclass(frozen=True)
class Looked:
    """A model as it was loaded, its scores, and the seconds that a row takes forwards."""

    model: Model
    forecast: TeacherForecast
    scores: Scores
    row_seconds: float


def look_at(recipe: Recipe, ready: Prepared) -> Looked:
    """Load the model of a recipe and score it on the first validation rows, those of some seconds.

    Raises:
        UserError, DataError: the model cannot be loaded, or does not go with the data.
    """
    source, seen = recipe.model.source, list[Batch]()
    model, trained_already = ready.family.load(recipe, ready.dataset.labels, ready.dataset.preprocessing)
    model = model.to(ready.accelerator.device)
    ready = replace(ready, dataset=replace(ready.dataset, test=None)).judged_by(model, recipe)  # test is not looked at
    rows = for_a_while(ready.batches("validation"), seen)
    scores = evaluate(model, ready.task, rows, ready.accelerator, "validation", recipe.task.metric, interval=True)
    start = time.monotonic()  # the first passes, which were slower, are over
    again, _ = outputs_of(model, ready.task, seen[:1], ready.accelerator)
    seconds = (time.monotonic() - start) / len(again[0])
    baseline = baseline_value(ready.task, seen, model.spec.outputs, scores.primary)
    training = fault = hint = ""
    if not ready.task.labelled:
        training = ""
    elif not trained_already:
        training = "its weights, or those of its classifier, are random"
    elif doubt := chance(source, scores, baseline):
        training = doubt
    elif scores.value < recipe.train.threshold:
        training = f"its {scores.primary} is under train.threshold, {recipe.train.threshold:.4f}"
    if trained_already:
        try:
            check_loaded(source, scores, baseline)
        except UserError as err:
            training, fault, hint = "", err.message, err.hint
    forecast = TeacherForecast(
        source=source,
        parameters=model.spec.count_parameters(),
        scores=scores if trained_already else None,
        validation_rows=len(ready.dataset.validation),
        training=training,
        fault=fault,
        hint=hint,
    )
    return Looked(model.eval(), forecast, scores, seconds)


def for_a_while(batches: Iterable[Batch], seen: list[Batch]) -> Iterator[Batch]:
    """Yield batches until some seconds have passed, one at least; `seen` collects them."""
    start = time.monotonic()
    for batch in batches:
        seen.append(batch)
        yield batch
        if time.monotonic() - start > SECONDS:
            return
