"""What students are cut from: the teacher, or the teacher with the tokens that the training rows use alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rmtkd_edge.compress.context import State
from rmtkd_edge.compress.data import make_data
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Spec
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.vocabulary import VocabularyRecord
from rmtkd_edge.tasks.base import HasVocabulary, Task

if TYPE_CHECKING:
    from rmtkd_edge.compress.stage import Prepared


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
    least, there = recipe.compress.vocabulary, model.to(ready.accelerator.device)
    if least is None:
        return Start(ready, State(there, {}, scores))
    task = with_vocabulary(ready.task)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tokenizer"
        cut = task.cut_vocabulary(ready.dataset, recipe, data, folder)
        for path in sorted(folder.iterdir()):
            run.write_bytes(f"{layout.STUDENT_PREPROCESSING}/{path.name}", path.read_bytes())
    fewer = replace(ready, dataset=cut.dataset, data=make_data(ready.task, cut.dataset, recipe))
    smaller = ready.family.with_vocabulary(there, cut.kept.tolist())
    return Start(fewer, State(smaller, {}, fewer.score(smaller, recipe, "validation")), cut.record)


def with_vocabulary(task: Task[Any]) -> HasVocabulary[Any]:
    """Return a task whose vocabulary can be cut; raise RecipeError for another one."""
    if not isinstance(task, HasVocabulary):
        raise RecipeError(f"the task {task.name} cannot cut its vocabulary", "leave compress.vocabulary out")
    return task


def foretold(recipe: Recipe, ready: Prepared, model: Any) -> Spec:
    """Return the shape that widths are cut from: with the tokens, and as many layers, as the recipe leaves."""
    spec = model.spec
    if recipe.compress.vocabulary is not None:
        kept = with_vocabulary(ready.task).tokens_that_stay(ready.dataset, recipe)
        spec = ready.family.with_vocabulary(model, kept.tolist()).spec
    if recipe.compress.layers is not None:
        spec = ready.family.shorter(spec, range(recipe.compress.layers))
    return spec
