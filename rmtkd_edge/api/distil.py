"""`distil`: train a narrowed model on its own task and on what its teacher says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rmtkd_edge.api.batches import Loader, first_rows, need_targets, numbered, settings, task_of
from rmtkd_edge.config.recipe import Analyse, Distil
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import family_of
from rmtkd_edge.methods.base import Pair, find_method
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.reporter import Reporter, SilentReporter
from rmtkd_edge.tasks.base import Task

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model

Evaluate = Callable[["Model"], float]


def distil(
    student: Model,
    teacher: Model,
    loader: Loader,
    *,
    evaluate: Evaluate | Loader | None = None,
    steps: int | None = None,
    options: Distil | None = None,
    method: str = "rmt-kd",
    task: str | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Model:
    """Return the student after training on alpha times the task's loss + (1 - alpha) times the divergence.

    Args:
        student: a model of `compress`; it is left as it is.
        teacher: the model that it came from.
        loader: training batches as dictionaries of tensors, labels among them unless options.alpha is 0.
        evaluate: what decides which state is kept: a function of the model (higher is better), which sees it on the
            student's device, or labelled validation batches, on which the task's first metric decides. Without it the
            last state is kept.
        steps: optimiser steps; the options' epochs over the loader when left out.
        options: learning rate, alpha, temperature: the recipe's section `distil`.
        method: whose objective is trained on.
        task: kind of the task; the first of the model's modality when left out.

    Returns:
        The trained student in eval mode, on the device that it came on; it is trained on the GPU where there is one.

    Raises:
        DataError: batches lack what the model reads, or labels.
        UserError: `evaluate` returns no number, or `steps` is below 1.
        RecipeError: the method cannot follow an option.
        TrainingError: the loss is not finite.
    """
    from rmtkd_edge.compress.parallel import make_accelerator
    from rmtkd_edge.compress.training.schedule import Schedule
    from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs
    from rmtkd_edge.compress.training.trainer import Training, train

    if steps is not None and steps < 1:
        raise UserError(f"steps is {steps}", "1 or more, or leave it out for the options' epochs")
    how, kind, home = options or Distil(), task_of(student, task), next(student.parameters()).device
    how = how if steps is None else how.model_copy(update={"steps": steps})
    accelerator = make_accelerator()
    model = copy.deepcopy(student).to(accelerator.device)
    teacher = copy.deepcopy(teacher).to(accelerator.device).eval()
    batches = numbered(loader, model)
    pair = Pair(family_of(model), teacher, model, first_rows(batches, Analyse().minimum_rows))
    found, recipe = find_method(method), settings(distil=how)
    found.check(recipe, pair.family)
    objective = found.objective(kind, recipe, pair)
    if how.alpha > 0:
        need_targets(kind, batches, "training", "add them, or learn from the teacher alone: options=Distil(alpha=0)")
    shown = (reporter or SilentReporter()).event
    training = Training(
        schedule=Schedule.of_cycle(how, 1 if how.steps else sum(1 for _ in batches())),
        objective=objective,
        epoch=lambda number: batches(),
        validate=_validation(evaluate, model, kind, accelerator, home),
        seed=seed,
        # a shuffled loader gives other rows under the same numbers in every epoch, so that nothing can be cached
        teacher=TeacherOutputs(teacher, 0, fresh=True, taps=objective.taps) if objective.teacher else None,
    )
    train(model.train(), training, accelerator, report=shown)
    return model.to(home).eval()


def _validation(
    evaluate: Evaluate | Loader | None, model: Model, task: Task[Any], accelerator: Accelerator, home: torch.device
) -> Callable[[Model], Scores]:
    from rmtkd_edge.compress.training.evaluate import evaluate as scores_of

    if evaluate is None:
        return lambda found: Scores("validation", 0, "none", {"none": 0.0})
    if callable(evaluate):
        function = evaluate

        def asked(found: Any) -> Scores:
            value = function(found.to(home))
            found.to(accelerator.device)
            try:
                return Scores("validation", 0, "evaluate", {"evaluate": float(value)})
            except (TypeError, ValueError) as err:
                raise UserError(f"evaluate returned {value!r}", "return a number, higher for the better model") from err

        return asked
    held = numbered(evaluate, model)
    need_targets(task, held, "validation", "add them, or give a function: evaluate=lambda model: ...")
    return lambda found: scores_of(found, task, held(), accelerator, "validation", None)
