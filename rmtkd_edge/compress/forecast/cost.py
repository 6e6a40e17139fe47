"""What a compression would take here: a few steps of its training are timed, and the rest is counted in passes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.forecast.teacher import Looked
from rmtkd_edge.compress.loop import jobs
from rmtkd_edge.compress.ranks.cut import own_batches
from rmtkd_edge.compress.training.schedule import Schedule
from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs
from rmtkd_edge.compress.training.trainer import Training, timed_step
from rmtkd_edge.families.base import Spec
from rmtkd_edge.methods.base import Objective, Pair
from rmtkd_edge.methods.students import layers_of
from rmtkd_edge.run.records.dry_run import CostForecast
from rmtkd_edge.tasks.base import Batch
from rmtkd_edge.tasks.subsets import Subsets

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

STEPS, SECONDS = 3, 10.0  # that are timed of one model, at most; the first step, which is slower, comes before them
BACKWARDS, FITS = 3, 2  # passes forwards that one with gradients takes; that a closed form takes, of both models
COPIES = 4  # of the weights in float32 that a training holds when it is kept: weights, both moments, the best state


def cost_of(context: Context, looked: Looked, shapes: list[Spec], subsets: Subsets, test_rows: int) -> CostForecast:
    """Return what a compression would take.

    Args:
        context: its targets are the recipe's.
        shapes: of the students that are aimed at, largest first; empty where nothing tells them.
        subsets: rows of train that spectra and closed forms take.
        test_rows: that are scored at the end.
    """
    recipe, data, row = context.recipe, context.data, looked.row_seconds
    names = context.family.sites_to_cut(looked.model.spec, recipe.compress)
    cycles = len(jobs(context, names)) * (len(recipe.stop.targets) if context.from_teacher else 1)
    cycles += recipe.compress.layers is not None  # one of its own, before the others
    schedule = Schedule.of_cycle(recipe.distil, data.steps(recipe.distil.batch_size))
    steps = 0 if recipe.compress.one_shot else schedule.steps
    timed = _cycle_steps(context, looked.model, shapes, schedule, cycles > 1) if steps else []
    seconds = {"teacher": 0.0, "search": cycles * _search_rows(context, subsets) * row}
    if looked.forecast.training:
        seconds["teacher"] = _teacher_seconds(context, looked)
    seconds["training"] = cycles * steps * sum(timed) / max(1, len(timed))
    validations = 1 + (0 if not steps else -(-steps // recipe.distil.evaluate_every))
    rows = cycles * validations * looked.forecast.validation_rows + (1 + max(1, len(shapes))) * test_rows
    seconds["validation"] = row * rows
    return CostForecast(
        cycles=cycles,
        steps=steps,
        step_seconds=tuple(timed),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        memory_bytes=_memory(looked.model.spec.count_parameters(), bool(steps)),
    )


def _search_rows(context: Context, subsets: Subsets) -> int:
    """Return the passes forwards, of one row, that spectra and closed form of a cycle take."""
    rows = len(subsets.analysis) + BACKWARDS * len(subsets.effect) + FITS * len(subsets.warm)
    options = context.recipe.compress
    if options.allocation == "kl":
        rows += options.trials * (FITS * len(subsets.trial) + len(subsets.judged))
    return rows


def _cycle_steps(
    context: Context, teacher: Model, shapes: list[Spec], schedule: Schedule, several: bool
) -> list[float]:
    """Return the seconds of a step of the last student and, before it where there are several cycles, at full width."""
    family, recipe, data = context.family, context.recipe, context.data
    students: list[Model] = [family.initialise(family.build(spec), recipe.seed) for spec in shapes[-1:]]
    if not students or (several and not context.from_teacher):
        students.insert(0, copy.deepcopy(teacher))
    found = []
    for student in students:
        student = student.to(context.accelerator.device)
        left = layers_of(student.spec)
        kept = None if left == layers_of(teacher.spec) else tuple(range(left))
        pair = Pair(family, teacher, student, lambda: islice(own_batches(context, data.warm)(), 1), data.rows, kept)
        objective = context.method.objective(context.task, recipe, pair)
        outputs = TeacherOutputs(teacher, data.rows, data.augmented, objective.taps) if objective.teacher else None
        epoch = partial(data.epoch, recipe.distil.batch_size, recipe.seed)
        found.append(_seconds(context, student, schedule, objective, epoch, outputs))
    return found


def _teacher_seconds(context: Context, looked: Looked) -> float:
    """Return the seconds of training the original first."""
    recipe, task = context.recipe, context.task
    schedule = Schedule.of_teacher(
        recipe.train, context.data.labelled_steps(recipe.train.batch_size), looked.model.spec.dropout
    )
    objective = Objective(lambda seen, batch, _: task.loss(seen.outputs, batch), teacher=False)
    epoch = partial(context.data.labelled_epoch, recipe.train.batch_size, recipe.seed)
    one = _seconds(context, copy.deepcopy(looked.model), schedule, objective, epoch)
    validation = recipe.train.epochs * looked.forecast.validation_rows * looked.row_seconds
    return one * schedule.steps + validation


def _seconds(
    context: Context,
    model: Model,
    schedule: Schedule,
    objective: Objective,
    epoch: Callable[[int], Iterable[Batch]],
    teacher: TeacherOutputs | None = None,
) -> float:
    """Return the seconds of a training step of a model, which is of no use then."""
    training = Training(schedule, objective, epoch, context.validate, context.recipe.seed, teacher)
    return timed_step(model, training, context.accelerator, STEPS, SECONDS)


def _memory(parameters: int, trained: bool) -> int | None:
    """Return the expected peak in bytes: what this process has taken, and the copies that a real training keeps."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(peak[1]) * 1024 + (4 * COPIES * parameters if trained else 0) if peak else None
