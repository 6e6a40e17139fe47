"""Rows without labels: texts that a teacher's outputs teach a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.ragged import Ragged
from rmtkd_edge.tasks.reading.sequences import Ids, check_table, check_texts, table_ids
from rmtkd_edge.tasks.reading.tables import one_file

ROLE = "unlabelled"


@dataclass(frozen=True)
class Unlabelled:
    """Token ids and type ids (None for single texts) by row, and lines for the user."""

    ids: Ragged
    type_ids: Ragged | None
    notes: tuple[str, ...]


def unlabelled_rows(task: Task, tokenizer: Any, held_out: Sequence[Ids]) -> Unlabelled | None:
    """Return the rows of `task.unlabelled`, None where the recipe names no file.

    Rows that validation or test holds as well are left out: nothing may learn from them.

    Raises:
        DataError: a file that cannot be read, without the columns of texts, or without rows that are left.
    """
    if task.unlabelled is None:
        return None
    path = Path(task.unlabelled)
    table = one_file(task, path)
    check_table(task, table, ROLE, ())
    odd = check_texts(task, table, ROLE)
    ids, types = table_ids(task, table, ROLE, tokenizer)
    known = {tuple(row) for rows in held_out for row in rows}
    new = np.array([tuple(row) not in known for row in ids], bool)
    if not new.any():
        raise DataError(f"all {len(new)} rows of {path.name} are rows of validation or test", "give other texts")
    note = f"{int(new.sum())} rows of {path.name} have no labels: closed forms and self-distillation use them"
    gone = f"; {int((~new).sum())} more are rows of validation or test and were left out" if not new.all() else ""
    rows = np.flatnonzero(new)
    return Unlabelled(ids.take(rows), None if types is None else types.take(rows), (note + gone, *odd))
