"""A cell as it is handed to the process that runs it: a resolved recipe, its data, and what the cell's file says."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grid import settings
from grid.cells import ATTRIBUTION, QUANTILE, STEPS, TEACHERS, TIME, Cell, Where, given_teacher, teacher_of
from grid.studies import RMT_KD
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import LOG, RESULT, TEACHER
from rmtkd_edge.run.records.compress import CompressRecord


@dataclass(frozen=True)
class Order:
    """What one process does.

    Attributes:
        folder: the run directory.
        recipe: name of the recipe, which `changes` are made to.
        target: whether the recipe's target holds; without one the quantile alone decides.
        facts: what the cell's file says.
        copy_of: a finished run of the same settings, which is copied.
        until: seconds since the epoch at which the process stops.
        threads: of torch.
    """

    folder: str
    recipe: str
    changes: tuple[str, ...]
    target: bool
    data: str
    facts: dict[str, Any]
    copy_of: str | None = None
    until: float | None = None
    threads: int = 1

    def to_json(self) -> str:
        """Return the order as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Order:
        """Return the order of a text."""
        return Order(**json.loads(text))

    def resolved(self) -> Recipe:
        """Return the recipe; raise RecipeError for settings that are none."""
        recipe = load_recipe(self.recipe, list(self.changes))
        return recipe if self.target else recipe.aiming_at(None)


def result_of(folder: Path) -> CompressRecord:
    """Return the result of a finished run."""
    return Run.open(folder).read_record(CompressRecord, RESULT)


def order_of(cell: Cell, where: Where) -> Order:
    """Return what a cell's process does; the cells that it needs are finished."""
    steps, copy_of, facts = where.steps or cell.of.steps, None, cell.facts()
    if cell.budget == TIME:
        rmt_kd, own = (Cell(STEPS, cell.study, name, cell.target, cell.seed) for name in (RMT_KD, cell.name))
        if own == rmt_kd:
            copy_of = str(folder_of(own, where))
        else:
            spent = time_budget(result_of(folder_of(rmt_kd, where)), result_of(folder_of(own, where)))
            steps = int(spent["steps"])
            started = (folder_of(rmt_kd, where) / LOG).read_text().count('"event": "cycle_start"')
            facts["time"] = {**spent, "rmt_kd": rmt_kd.id, "rmt_kd_processes": started, "own": own.id}
    return Order(
        folder=str(folder_of(cell, where)),
        recipe=cell.of.recipe,
        changes=tuple(changes_of(cell, where, steps)),
        target=cell.budget != QUANTILE,
        data=str((where.data / cell.of.data).resolve()),
        facts=facts,
        copy_of=copy_of,
    )


def folder_of(cell: Cell, where: Where) -> Path:
    """Return a cell's run directory."""
    return where.out.resolve() / cell.id


def changes_of(cell: Cell, where: Where, steps: int) -> list[str]:
    """Return what is set of the recipe."""
    study, seed = cell.of, f"seed={cell.seed}"
    base = [*study.changes, *settings.COMMON]
    if cell.budget == TEACHERS:
        return [*base, *settings.of_teacher(), seed, *where.changes]
    teacher = given_teacher(study, where) or folder_of(teacher_of(cell.study), where) / TEACHER
    own = [*settings.model_of(study, str(teacher), base), *own_settings(cell, where), seed]
    targets = [*on_the_way(cell), *([] if cell.target is None else [cell.target])]
    if targets:
        own.append(f"stop.target_reduction={targets if len(targets) > 1 else targets[0]}")
    cycles, usual = max(1, len(targets)), where.steps or study.steps
    return [*base, *own, *where.changes, *settings.of_steps(steps // cycles, usual // cycles, study.validations)]


def on_the_way(cell: Cell) -> tuple[float, ...]:
    """Return the targets that a cell meets before its own."""
    return settings.VARIANTS[cell.name].on_the_way if cell.budget == ATTRIBUTION else ()


def own_settings(cell: Cell, where: Where) -> list[str]:
    """Return what a cell's method, variant or quantile is given."""
    if cell.budget == QUANTILE and cell.quantile is not None:
        return settings.of_quantile(cell.name, cell.quantile)
    if cell.budget != ATTRIBUTION:
        return settings.of_method(cell.of, cell.name)
    found = settings.of_variant(cell.of, cell.name)
    if settings.VARIANTS[cell.name].like_rmt_kd:
        rmt_kd = folder_of(Cell(STEPS, cell.study, RMT_KD, cell.target, cell.seed), where)
        found += settings.widths(result_of(rmt_kd).ranks)
    return found


def time_budget(reference: CompressRecord, same: CompressRecord) -> dict[str, float]:
    """Return how many steps a method takes in the compression time of rmt-kd, and the seconds behind that.

    Args:
        reference: the finished rmt-kd, whose time includes its search and closed form.
        same: the method's own finished run, whose fixed part and seconds a step it tells.
    """
    total = sum(sum(cycle.seconds.values()) for cycle in reference.cycles)
    trained = sum(cycle.seconds.get("fine_tune", 0.0) for cycle in same.cycles)
    fixed = sum(sum(cycle.seconds.values()) for cycle in same.cycles) - trained
    step = trained / sum(cycle.steps for cycle in same.cycles)
    steps = max(1, math.floor((total - fixed) / step))
    return {
        "steps": steps,
        "rmt_kd_seconds": round(total, 2),
        "fixed_seconds": round(fixed, 2),
        "step_seconds": round(step, 5),
    }
