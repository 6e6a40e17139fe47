"""A teacher, the student that a method starts from, and its loss on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from contract_sample import batches_of, load, randomised, recipe_of
from torch import Tensor

from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.compress.training.teacher_outputs import seen
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.base import find_family
from rmtkd_edge.methods.base import Cut, Objective, Pair, Seen, find_method
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.tasks.base import Task, find_task


@dataclass(frozen=True)
class Example:
    """What a method does with a small teacher of a family."""

    task: Task[Any]
    teacher: Any
    student: Any
    batch: dict[str, Tensor]
    objective: Objective

    def shown(self) -> tuple[Seen, Seen]:
        """Return what student and teacher compute on the batch."""
        taps = self.objective.taps
        return tuple(seen(model, self.batch, taps, model.spec) for model in (self.student, self.teacher))  # type: ignore[return-value]

    def loss(self) -> Tensor:
        """Return the objective's loss of the batch."""
        student, teacher = self.shown()
        return self.objective.loss(student, self.batch, teacher)


def example(name: str, family: str, tokenizer: Any, target: float = 0.3, **sections: Any) -> Example:
    """Return a method at work on a family's small teacher with noise on every parameter."""
    method, home = find_method(name), find_family(family)
    compress = {"method": name, **sections.pop("compress", {})}
    recipe = recipe_of(family, tokenizer, compress=compress, stop={"target_reduction": target}, **sections)
    method.check(recipe, home)
    teacher = randomised(load(home, tokenizer, **sections))
    batches = batches_of(teacher.spec)
    if "attention_mask" in batches[0]:
        batches[0]["attention_mask"][1::2, 7:] = 0
    widths = method.widths(teacher.spec, home, recipe, 1)
    assert widths is not None
    cut = Cut(widths.by_site, layers=widths.layers)
    student = randomised(method.initial_student(home, teacher, cut, lambda: batches, lambda: batches, recipe), 1)
    task = find_task(home.default_task)
    rows = sum(len(batch["index"]) for batch in batches)
    objective = method.objective(task, recipe, Pair(home, teacher, student, lambda: batches, rows))
    return Example(task, teacher.eval(), student.train(), batches[0], objective)


def run_of(name: str, recipe: Recipe, data: Any, path: Any) -> CompressRecord:
    """Return the result of a whole compression."""
    assert recipe.compress.method == name
    run = Run.create(path, recipe.to_toml(), recipe.seed)
    return compress_run(run, recipe, data=data, reporter=SimpleNamespace(event=lambda *a, **k: None))
