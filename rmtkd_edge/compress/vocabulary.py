"""What students are cut from: the teacher, or the teacher with the tokens that the training rows use alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rmtkd_edge.compress.context import State
from rmtkd_edge.compress.data import make_data
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.vocabulary import VocabularyRecord
from rmtkd_edge.tasks.base import HasVocabulary, Task

if TYPE_CHECKING:
    from rmtkd_edge.compress.prepared import Prepared


@dataclass(frozen=True)
class Start:
    """The model that the loop begins with, and the data as it reads them.

    Attributes:
        vocabulary: None where all tokens stay.
    """

    ready: Prepared
    state: State
    vocabulary: VocabularyRecord | None = None


def start(run: Run, recipe: Recipe, ready: Prepared, model: Any, scores: Scores, data: Path | None) -> Start:
    """Return what the loop begins with; of a smaller vocabulary its tokenizer is written to the run.

    On rows whose tokens all stay the model computes what the teacher does.

    Args:
        model: the teacher.
        scores: its own on validation.
        data: the user's rows, which are read again with the smaller tokenizer.
    """

    def write(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            run.write_bytes(f"{layout.STUDENT_PREPROCESSING}/{path.name}", path.read_bytes())

    fewer, smaller, record = fewer_tokens(recipe, ready, model.to(ready.accelerator.device), data, write)
    if record is not None:
        scores = fewer.score(smaller, recipe, "validation")
    return Start(fewer, State(smaller, {}, scores), record)


def fewer_tokens(
    recipe: Recipe, ready: Prepared, model: Any, data: Path | None, write: Callable[[Path], None] | None = None
) -> tuple[Prepared, Any, VocabularyRecord | None]:
    """Return the data and the model with the tokens that `compress.vocabulary` leaves, as they are where it is unset.

    Args:
        data: the user's rows, which are read again.
        write: is given the folder of the smaller tokenizer, which is there for as long as it runs.
    """
    if recipe.compress.vocabulary is None:
        return ready, model, None
    task = with_vocabulary(ready.task)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tokenizer"
        cut = task.cut_vocabulary(ready.dataset, recipe, data, folder)
        if write is not None:
            write(folder)
    fewer = replace(ready, dataset=cut.dataset, data=make_data(ready.task, cut.dataset, recipe))
    return fewer, ready.family.with_vocabulary(model, cut.kept.tolist()), cut.record


def with_vocabulary(task: Task[Any]) -> HasVocabulary[Any]:
    """Return a task whose vocabulary can be cut; raise RecipeError for another one."""
    if not isinstance(task, HasVocabulary):
        raise RecipeError(f"the task {task.name} cannot cut its vocabulary", "leave compress.vocabulary out")
    return task
