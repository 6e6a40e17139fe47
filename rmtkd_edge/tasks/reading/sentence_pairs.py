"""Pairs of sentences with a score of their similarity: what embeddings are judged by where they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.config.task import Task
from rmtkd_edge.tasks.reading.numbers import numbers
from rmtkd_edge.tasks.reading.ragged import Ragged
from rmtkd_edge.tasks.reading.sequences import check_table, check_texts, encode
from rmtkd_edge.tasks.reading.tables import one_file

ROLE = "task.pairs"


@dataclass(frozen=True)
class ScoredPairs:
    """The halves of pairs, all first ones and then all second ones.

    Attributes:
        ids: token ids by row.
        numbers_and_scores: float32 (rows, 2), the number of a row's pair and its score.
    """

    ids: Ragged
    numbers_and_scores: np.ndarray


def scored_pairs(task: Task, tokenizer: Any, parts: int) -> list[ScoredPairs]:
    """Return the pairs of `task.pairs` in so many parts, taken in turn.

    Raises:
        DataError: a file that cannot be read, without its columns, or with scores that are no numbers.
    """
    assert task.pairs is not None, "the recipe names pairs"
    *texts, score = task.pair_columns
    own = task.model_copy(update={"text": list(texts), "label": score, "label_columns": []})
    table = one_file(own, Path(task.pairs))
    check_table(own, table, ROLE, (score,))
    check_texts(own, table, ROLE)
    scores = numbers(own, table, ROLE)
    halves = [Ragged.of(encode(tokenizer, [table[column].to_pylist()], task.max_length)[0]) for column in texts]
    found = []
    for part in range(parts):
        rows = np.arange(part, len(table), parts)
        told = np.stack([rows, scores[rows]], axis=1).astype(np.float32)
        found.append(ScoredPairs(Ragged.joined([half.take(rows) for half in halves]), np.concatenate([told, told])))
    return found
