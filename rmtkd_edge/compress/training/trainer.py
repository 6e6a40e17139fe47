"""Train a model on an objective, keep its best state, and continue after a kill.

Everything that the next step depends on is in one file a checkpoint; the order of the batches is a function of seed and
epoch, dropout's masks one of seed, step and process. So a run that is killed and started again takes the same steps as
one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rmtkd_edge.compress.parallel import mixed_seed, own_rows, total
from rmtkd_edge.compress.training.checkpoint import Checkpoints, NoCheckpoints, Progress, restore, snapshot
from rmtkd_edge.compress.training.schedule import Schedule, parameter_groups, rate
from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs, seen
from rmtkd_edge.errors import TrainingError
from rmtkd_edge.methods.base import Objective
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model

LOG_EVERY = 10  # steps between two reports of the loss


@dataclass(frozen=True)
class Training:
    """What a model is trained on.

    Attributes:
        epoch: the epoch's number -> its batches.
        validate: scores that decide which state is kept.
        teacher: what the objective's teacher shows, None without one.
    """

    schedule: Schedule
    objective: Objective
    epoch: Callable[[int], Iterable[Batch]]
    validate: Callable[[Model], Scores]
    seed: int
    teacher: TeacherOutputs | None = None


@dataclass(frozen=True)
class Trained:
    """What a training ended with; `scores` are those of the best state, which the model then holds.

    `seconds` counts what killed processes have done of it too, up to their last checkpoint.
    """

    scores: Scores
    steps: int
    history: list[tuple[int, float]]
    seconds: float = field(compare=False)


def silent(event: str, /, **facts: Any) -> None:
    """Report nothing."""


def train(
    model: Model,
    training: Training,
    accelerator: Accelerator,
    checkpoints: Checkpoints | None = None,
    report: Callable[..., None] = silent,
) -> Trained:
    """Train `model` in place and leave it in its best state on validation.

    Raises:
        TrainingError: the loss is not finite; the message names the step, and the checkpoint before it is kept.
    """
    start, plan, kept = time.monotonic(), training.schedule, checkpoints or NoCheckpoints()
    model.set_dropout(plan.dropout)
    whole = with_helper(model, training.objective, accelerator)
    optimizer = _optimizer(whole, plan)
    progress = Progress()
    if (saved := kept.load()) is not None:
        progress = restore(whole, optimizer, saved, accelerator)
        report("note", text=f"continuing after step {progress.step}")
    before = progress.seconds
    step = _Step(model, optimizer, training, accelerator)
    for number, batch in _batches(training, plan.steps):
        if number <= progress.step:
            continue
        torch.manual_seed(mixed_seed(training.seed, number, accelerator.process_index))
        loss = step.take(batch, number)
        if loss is not None:
            report("step", step=number, total=plan.steps, loss=loss)
        if number % plan.evaluate_every == 0 or number == plan.steps:
            scores = training.validate(model)
            progress.take(number, scores, model)
            report("validation", step=number, metric=scores.primary, value=scores.value)
            if accelerator.is_main_process and number < plan.steps:
                now = replace(progress, step=number, seconds=before + time.monotonic() - start)
                kept.save(number, snapshot(whole, step.optimizer, now, accelerator))
    assert progress.best is not None, "the last step is validated"
    model.load_state_dict(progress.weights)
    accelerator.free_memory()  # it keeps every prepared model, and both of its moments
    seconds = round(before + time.monotonic() - start, 2)
    return Trained(progress.best, plan.steps, progress.history, seconds)


def timed_step(model: Model, training: Training, accelerator: Accelerator, steps: int, seconds: float) -> float:
    """Return the median seconds of a step, its batch made too; `model` is trained by the steps and of no use then.

    Args:
        steps: that are timed at most, after a first one that is not, where there is time for others.
        seconds: after which no step is begun.
    """
    plan = training.schedule
    model.set_dropout(plan.dropout)
    optimizer = _optimizer(with_helper(model, training.objective, accelerator), plan)
    step, ends = _Step(model, optimizer, training, accelerator), [time.monotonic()]
    for number, batch in _batches(training, min(plan.steps, 1 + steps)):
        step.take(batch, number)
        ends.append(time.monotonic())
        if ends[-1] - ends[0] > seconds:
            break
    accelerator.free_memory()
    taken = [after - before for before, after in pairwise(ends)]
    return median(taken[1:] or taken)


def _optimizer(whole: nn.Module, plan: Schedule) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(whole, plan.weight_decay), lr=plan.learning_rate, fused=True)


def with_helper(model: Model, objective: Objective, accelerator: Accelerator) -> nn.ModuleDict:
    """Return all that is trained: the model, and the objective's helper where it has one."""
    if objective.helper is None:
        return nn.ModuleDict({"model": model})
    return nn.ModuleDict({"model": model, "helper": objective.helper.to(accelerator.device).train()})


def _batches(training: Training, steps: int) -> Iterator[tuple[int, Batch]]:
    """Yield the number of every step, from 1, and its batch: epoch after epoch."""
    number, epoch = 0, 0
    while number < steps:
        for batch in training.epoch(epoch):
            if number >= steps:
                break
            number += 1
            yield number, batch
        epoch += 1


class _Step:
    """One optimiser step after the other, on this process's rows."""

    def __init__(
        self, model: Model, optimizer: torch.optim.Optimizer, training: Training, accelerator: Accelerator
    ) -> None:
        self.model, self.training, self.accelerator = model, training, accelerator
        run = training.objective.stand_in
        self.wrapped, self.optimizer = accelerator.prepare(model if run is None else run, optimizer)
        # accelerate patches the model's forward to run in half precision; `take` says so itself, the rest is float32
        accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)

    def take(self, batch: Batch, step: int) -> float | None:
        """Take a step; return the loss of the first one and of every tenth."""
        plan, objective, accelerator = self.training.schedule, self.training.objective, self.accelerator
        own = next(own_rows([batch], accelerator), None)
        if own is None:
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate * rate(step, plan.steps, plan.warmup)
        if objective.on_step is not None:
            objective.on_step((step - 1) / plan.steps)
        self.model.train()
        teacher = self.training.teacher
        with accelerator.autocast():
            student = seen(self.wrapped, own, objective.taps, self.model.spec)
            shown = None if teacher is None else teacher.of(own)
        loss = objective.loss(student, own, shown)
        if not math.isfinite(value := total(float(loss.detach()), accelerator)):
            raise TrainingError(
                f"the loss is {value} at step {step} of {plan.steps}",
                "the checkpoint before it is kept; try a lower rate: "
                f"--set {plan.rate_key}={plan.learning_rate / 3:.1g}",
            )
        self.optimizer.zero_grad()
        accelerator.backward(loss)
        if objective.helper is not None and accelerator.num_processes > 1:  # the model's wrapper does it for its own
            for parameter in objective.helper.parameters():
                parameter.grad = accelerator.reduce(parameter.grad, "mean")
        accelerator.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], plan.max_grad_norm)
        self.optimizer.step()
        return float(loss.detach()) if step % LOG_EVERY == 0 or step == 1 else None
