"""What is there of a cell: it is done, runs somewhere, failed, was begun, or is open."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from grid.cells import TIME, Cell, Where
from grid.order import Order, folder_of, order_of, result_of
from grid.studies import RMT_KD
from grid.worker import FAILED
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import LOCK, MANIFEST, read_recipe
from rmtkd_edge.run.lock import hold_file

OPEN, BEGUN, RUNNING, FAILURE, FINISHED = "open", "begun", "running", "failed", "done"


@dataclass(frozen=True)
class State:
    """The state of a cell, and why it failed."""

    name: str
    reason: str = ""


def state_of(cell: Cell, where: Where) -> State:
    """Return the state of a cell; one that was made with other settings counts as failed."""
    folder = folder_of(cell, where)
    if in_use(folder):
        return State(RUNNING)
    if (folder / FAILED).is_file():
        return State(FAILURE, json.loads((folder / FAILED).read_text())["reason"])
    if not (folder / MANIFEST).is_file():
        return State(OPEN)
    try:
        run = Run.open(folder)
        if run.stage("compress").get("state") != "done":
            return State(BEGUN)
        if comparable(read_recipe(run)) != as_read(order_of(cell, where)):
            return State(FAILURE, f"{folder} was made with other settings; give the same, or another --out")
    except RmtkdError as err:
        return State(FAILURE, err.message)
    return State(FINISHED)


def in_use(folder: Path) -> bool:
    """Return whether a process holds the lock of a run directory."""
    try:
        with open(folder / LOCK, "r+", encoding="utf-8") as handle:
            return not hold_file(handle)
    except OSError:
        return False


def comparable(recipe: Recipe) -> Recipe:
    """Return a recipe without the place of its teacher, since the whole grid may be moved."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"source": "teacher"})})


def as_read(order: Order) -> Recipe:
    """Return the recipe of an order as a run directory gives it back."""
    return comparable(parse_recipe(tomllib.loads(order.resolved().to_toml()), order.folder))


def expected_seconds(cell: Cell, where: Where, done: dict[Cell, float]) -> float:
    """Return what a cell will take: as long as the same one of another seed did, else what its study expects.

    Args:
        done: seconds of finished cells.
    """
    alike = [s for other, s in done.items() if other.id.rpartition("/")[0] == cell.id.rpartition("/")[0]]
    if alike:
        return sum(alike) / len(alike)
    expected = cell.of.expected
    steps = where.steps or cell.of.steps
    if cell.budget == "teachers":
        return expected.teacher
    if cell.quantile is not None:
        return 2 * expected.start
    trained = expected.start + steps * expected.step
    if cell.budget == TIME:
        return trained + expected.search if cell.name != RMT_KD else 1.0
    return trained + (expected.search if cell.method == RMT_KD else 0.0)


def seconds_of(cell: Cell, where: Where) -> float:
    """Return what a finished cell took."""
    return result_of(folder_of(cell, where)).seconds
