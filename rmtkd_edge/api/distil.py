"""`distil`: train a narrowed model on its own task and on what its teacher says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rmtkd_edge.api.batches import Loader, count_rows, numbered, settings, task_of
from rmtkd_edge.config.recipe import Distil
from rmtkd_edge.methods.base import find_method
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.reporter import Reporter, SilentReporter

Evaluate = Callable[[Any], float]


def distil(
    student: Any,
    teacher: Any,
    loader: Loader,
    *,
    evaluate: Evaluate | Loader | None = None,
    steps: int | None = None,
    options: Distil | None = None,
    method: str = "rmt-kd",
    task: str | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Any:
    """Return the student after training on alpha times the task's loss + (1 - alpha) times the divergence.

    Args:
        student: a model of `compress`; it is left as it is.
        teacher: the model that it came from.
        loader: training batches as dictionaries of tensors, labels among them unless options.alpha is 0.
        evaluate: what decides which state is kept: a function of the model (higher is better), or labelled validation
            batches, on which the task's first metric decides. Without it the last state is kept.
        steps: optimiser steps; the options' epochs over the loader when left out.
        options: learning rate, alpha, temperature: the recipe's section `distil`.
        method: whose objective is trained on.
        task: kind of the task; the first of the model's modality when left out.

    Raises:
        TrainingError: the loss is not finite.
    """
    from rmtkd_edge.compress.parallel import make_accelerator
    from rmtkd_edge.compress.training.schedule import Schedule
    from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs
    from rmtkd_edge.compress.training.trainer import Training, train

    how, accelerator = options or Distil(), make_accelerator()
    how = how if steps is None else how.model_copy(update={"steps": steps})
    model = copy.deepcopy(student).to(accelerator.device).train()
    teacher = copy.deepcopy(teacher).to(accelerator.device).eval()
    batches = numbered(loader, model)
    rows, per_epoch = count_rows(batches), sum(1 for _ in batches())
    objective = find_method(method).objective(task_of(model, task), settings(distil=how))
    shown = (reporter or SilentReporter()).event
    training = Training(
        schedule=Schedule.of_cycle(how, per_epoch),
        objective=objective,
        epoch=lambda number: batches(),
        validate=_validation(evaluate, model, task, accelerator),
        seed=seed,
        # a shuffled loader gives other rows under the same numbers in every epoch, so that nothing can be cached
        teacher=TeacherOutputs(teacher, rows, fresh=True, taps=objective.taps) if objective.teacher else None,
    )
    train(model, training, accelerator, report=shown)
    return model.eval()


def _validation(
    evaluate: Evaluate | Loader | None, model: Any, task: str | None, accelerator: Any
) -> Callable[[Any], Scores]:
    from rmtkd_edge.compress.training.evaluate import evaluate as scores_of

    if evaluate is None:
        return lambda found: Scores("validation", 0, "none", {"none": 0.0})
    if callable(evaluate):
        function = evaluate
        return lambda found: Scores("validation", 0, "evaluate", {"evaluate": float(function(found))})
    held = numbered(evaluate, model)
    return lambda found: scores_of(found, task_of(model, task), held(), accelerator, "validation", None)
