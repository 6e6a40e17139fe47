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
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.vocabulary import VocabularyRecord
from rmtkd_edge.tasks.base import HasVocabulary

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
    if not isinstance(ready.task, HasVocabulary):
        raise RecipeError(f"the task {ready.task.name} cannot cut its vocabulary", "leave compress.vocabulary out")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tokenizer"
        cut = ready.task.cut_vocabulary(ready.dataset, recipe, data, folder)
        for path in sorted(folder.iterdir()):
            run.write_bytes(f"{layout.STUDENT_PREPROCESSING}/{path.name}", path.read_bytes())
    fewer = replace(ready, dataset=cut.dataset, data=make_data(ready.task, cut.dataset, recipe))
    smaller = ready.family.with_vocabulary(there, cut.kept.tolist())
    return Start(fewer, State(smaller, {}, fewer.score(smaller, recipe, "validation")), cut.record)
