"""What a compression works on: the device, the data, and what its recipe names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.compress.data import Data, in_order, make_data
from rmtkd_edge.compress.latency import energy_predictor
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.ranks.edge import multiple_for
from rmtkd_edge.compress.training.evaluate import evaluate, with_reference
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Family, find_family
from rmtkd_edge.methods.base import Method, find_method
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import Batch, Dataset, Task, find_task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model


@dataclass(frozen=True)
class Prepared:
    """What can be read, and refused, before a run directory is made or replaced."""

    family: Family
    task: Task[Any]
    method: Method
    dataset: Dataset[Any]
    data: Data
    accelerator: Accelerator
    profile: HardwareProfile | None
    multiple: int

    def judged_by(self, teacher: Model, recipe: Recipe) -> Prepared:
        """Return the same with the teacher's outputs as targets, of a task that has such."""
        found = with_reference(self.dataset, self.task, teacher, self.accelerator)
        return self if found is self.dataset else replace(self, dataset=found, data=make_data(self.task, found, recipe))

    def score(self, model: Model, recipe: Recipe, split: str, interval: bool = False) -> Scores:
        """Return a model's scores on `validation` or `test`."""
        metric, model = recipe.task.metric, model.to(self.accelerator.device)
        return evaluate(model, self.task, self.batches(split), self.accelerator, split, metric, interval)

    def batches(self, split: str) -> Iterable[Batch]:
        """Return the rows of `validation` or `test` in order."""
        rows = self.dataset.validation if split == "validation" else self.dataset.test
        return in_order(self.task, self.dataset, rows)()


def prepare(recipe: Recipe, data: Path | None) -> Prepared:
    """Return device, data and what the recipe names; raise RecipeError, DataError or UserError."""
    family, task = find_family(recipe.model.family), find_task(recipe.task.kind)
    method = find_method(recipe.compress.method)
    method.check(recipe, family)
    if recipe.stop.latency_ms is not None and recipe.stop.profile is None:
        raise RecipeError(
            "stop.latency_ms needs stop.profile, the device that it holds on", "--set stop.profile=local-cpu"
        )
    profile = None if recipe.stop.profile is None else load_profile(recipe.stop.profile)
    if recipe.stop.energy_mj is not None and energy_predictor(family, profile) is None:
        raise RecipeError(
            "stop.energy_mj needs stop.profile with measured curves, and with idle_watts and active_watts_per_core in "
            "its section [power]",
            "on the device: rmtkd-edge calibrate --on PROFILE; then stop.profile= the file that it writes",
        )
    accelerator = make_accelerator(recipe.train.precision)
    normalisation = family.source_normalisation(recipe)
    dataset = task.load(recipe, data, source_normalisation=normalisation)
    if recipe.task.unlabelled is not None and dataset.distilled is None:
        raise RecipeError(f"the task {task.name} reads no rows without labels", "leave task.unlabelled out")
    batches = make_data(task, dataset, recipe)
    return Prepared(family, task, method, dataset, batches, accelerator, profile, multiple_for(family, profile))
