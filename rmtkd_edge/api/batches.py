"""The user's own batches as the package needs them: dictionaries of tensors with the number of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.recipe import Analyse, Compress, Distil, Recipe
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.families.base import family_of
from rmtkd_edge.tasks.base import Task, find_task, tasks_of

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.model import Model

Batch = dict[str, "Tensor"]
Loader = Iterable[Mapping[str, Any]]
HINT = "give batches as dictionaries of tensors under the model's input names"


def task_of(model: Model, kind: str | None) -> Task[Any]:
    """Return the task of a kind; without one the family's default.

    Raises:
        UserError: the task reads something else than the model does, or chooses among outputs of which it has one.
    """
    family = family_of(model)
    if kind is None and find_task(family.default_task).head != model.spec.head:
        kind = next((t.name for t in tasks_of(family.modality) if t.head == model.spec.head), None)
    task = find_task(family.default_task if kind is None else kind)
    if task.modality != family.modality:
        fitting = ", ".join(known.name for known in tasks_of(family.modality))
        raise UserError(f"{kind} is a task on {task.modality}, the model reads {family.modality}", f"task: {fitting}")
    if task.head != model.spec.head:
        fitting = ", ".join(known.name for known in tasks_of(family.modality) if known.head == model.spec.head)
        raise UserError(f"the model is not one of the task {task.name}", f"task: {fitting}")
    if task.prediction == "argmax" and len(model.spec.labels) == 1:
        others = " or ".join(f"task={t.name!r}" for t in tasks_of(family.modality) if t.prediction == "none")
        raise UserError(
            f"the model gives one output, and {task.name} chooses among several",
            others or "take a model with several outputs",
        )
    return task


def settings(
    analyse: Analyse | None = None, compress: Compress | None = None, distil: Distil | None = None, seed: int = 0
) -> Recipe:
    """Return a recipe that holds these sections and defaults; it names no model and no data, which the caller has."""
    construct: Any = Recipe.model_construct  # sections `model` and `task` are required of a file, not of a call
    recipe: Recipe = construct(
        analyse=analyse or Analyse(), compress=compress or Compress(), distil=distil or Distil(), seed=seed
    )
    return recipe


def numbered(loader: Loader, model: Model) -> Callable[[], Iterator[Batch]]:
    """Return a function that starts a pass over a loader's batches, on the model's device, rows numbered in `index`.

    A loader that can be read once is kept in memory.

    Raises:
        DataError: there is no batch, or a batch is no dictionary of tensors, or lacks what the model reads.
    """
    held: Iterable[Mapping[str, Any]] = list(loader) if iter(loader) is loader else loader
    device = next(model.parameters()).device
    required = [item.name for item in model.spec.inputs if not item.optional]
    optional = [item.name for item in model.spec.inputs if item.optional]

    def start() -> Iterator[Batch]:
        import torch

        seen = 0
        for batch in [held] if isinstance(held, Mapping) else held:
            if not isinstance(batch, Mapping):
                raise DataError(f"a batch is a {type(batch).__name__}", HINT)
            missing = [name for name in required if name not in batch]
            if missing:
                raise DataError(
                    f"a batch has no {', '.join(missing)} (it has {', '.join(batch)})",
                    HINT,
                )
            rows = len(batch[required[0]])
            found = {name: _tensor(name, value).to(device) for name, value in batch.items() if value is not None}
            found |= {name: torch.zeros_like(found[required[0]]) for name in optional if name not in found}
            found.setdefault("index", torch.arange(seen, seen + rows))
            seen += rows
            yield found

    first = next(start(), None)
    if first is None:
        raise DataError("the loader has no batch", "give at least one batch")
    return start


def _tensor(name: str, value: Any) -> Tensor:
    import torch

    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as err:
        raise DataError(f"a batch's `{name}` is no tensor: {err}", f"leave `{name}` out of the batches") from err


def need_targets(task: Task[Any], batches: Callable[[], Iterator[Batch]], rows: str, hint: str) -> None:
    """Raise DataError where a pass, of the rows that `rows` names, starts with a batch that has no targets."""
    missing = [name for name in task.target_names if name not in next(batches())]
    if missing:
        raise DataError(f"the {rows} batches have no `{'`, `'.join(missing)}`", hint)


def first_rows(batches: Callable[[], Iterator[Batch]], rows: int) -> Callable[[], Iterator[Batch]]:
    """Return a function that starts a pass over the batches that hold the first so many rows."""

    def start() -> Iterator[Batch]:
        taken = 0
        for batch in batches():
            if taken >= rows:
                return
            yield {name: value[: rows - taken] for name, value in batch.items()}
            taken += len(batch["index"])

    return start
