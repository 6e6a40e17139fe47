"""Which rows of train a teacher never saw: those of its own run, which another seed does not hold out."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.layout import TEACHER_RECORD
from rmtkd_edge.run.records.base import from_json, read_json_file
from rmtkd_edge.run.records.teacher import HeldOutRecord, TeacherRecord
from rmtkd_edge.tasks.base import Dataset


def held_out_of(dataset: Dataset[Any], recipe: Recipe) -> HeldOutRecord | None:
    """Return which rows of train are validation, None where validation is a split of its own."""
    if any(source.role == "validation" for source in dataset.sources):
        return None
    return HeldOutRecord(recipe.task.seed_of_split(recipe.seed), dataset.digests["validation"])


def held_out_before(source: str) -> HeldOutRecord | None:
    """Return what the run held out that wrote a teacher's folder, None where that is not known."""
    file = Path(source, PurePosixPath(TEACHER_RECORD).name)
    if not file.is_file():
        return None
    try:
        return from_json(TeacherRecord, read_json_file(file), file).held_out
    except RunDirError:
        return None


def seen_before(source: str, before: HeldOutRecord | None, now: HeldOutRecord | None) -> str:
    """Return a note where this run validates on rows that a teacher may have been trained on, else nothing."""
    if before is None or now is None or before.digest == now.digest:
        return ""
    held, hint = "held other rows of train out", f"--set task.split_seed={before.seed} holds out the same ones"
    if before.seed == now.seed:
        held += ", or read the same ones otherwise"
        hint = (
            "under this seed too: task.validation_fraction, limits, task.max_length and the tokenizer say which and how"
        )
    return (
        f"`{source}` comes from a run that {held}: where they were of these data, it may have been trained on rows "
        f"that are validation now, which flatters it and whatever is closest to it ({hint})"
    )
