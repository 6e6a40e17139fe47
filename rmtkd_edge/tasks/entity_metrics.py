"""How well tokens are labelled: entities, as conlleval and seqeval count them, and 95 % intervals over rows.

What a label says of entities is its code: -1 for outside, else 4 x type + one of INSIDE, BEGIN, END, SINGLE. Names are
read as BIO, BIOES or BILOU; a label without such a prefix (a part of speech) is an entity of one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from rmtkd_edge.tasks.metrics import RESAMPLES

KNOWN = ("f1", "precision", "recall", "accuracy")
IGNORED = -100  # of a token that is not judged: all but the first of a word
OUTSIDE, INSIDE, BEGIN, END, SINGLE = -1, 0, 1, 2, 3
PREFIXES = {"B": BEGIN, "I": INSIDE, "M": INSIDE, "E": END, "L": END, "S": SINGLE, "U": SINGLE}

Entity = tuple[int, int, int]  # type, first word, last word


def label_codes(labels: Sequence[str]) -> list[int]:
    """Return the code of every label."""
    parted = [
        (PREFIXES[name[0]], name[2:]) if name[1:2] == "-" and name[0] in PREFIXES else (SINGLE, name) for name in labels
    ]
    types = {kind: i for i, kind in enumerate(dict.fromkeys(kind for _, kind in parted))}
    return [
        OUTSIDE if name == "O" else 4 * types[kind] + part for name, (part, kind) in zip(labels, parted, strict=True)
    ]


def entities(codes: Iterable[int]) -> set[Entity]:
    """Return the entities of a sequence of words, where one begins and ends by conlleval's rules.

    A label inside an entity that follows nothing of its type begins one: I-PER after O counts.
    """
    found, start = set[Entity](), 0
    for i, (before, code) in enumerate(pairwise([OUTSIDE, *codes, OUTSIDE])):
        if before != OUTSIDE and _parts(before, code):
            found.add((before // 4, start, i - 1))
        if code != OUTSIDE and (before == OUTSIDE or _parts(before, code)):
            start = i
    return found


def _parts(before: int, code: int) -> bool:
    """Return whether a word with a code ends the entity of the word before it."""
    return code == OUTSIDE or before // 4 != code // 4 or before % 4 in (END, SINGLE) or code % 4 in (BEGIN, SINGLE)


def counts(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return right, found and wanted entities, then right and judged words, of every row: float64 (n, 5).

    Args:
        outputs: (n, T, labels).
        targets: int64 (n, T + labels): labels of tokens, IGNORED where they are not judged, then the codes of labels.
    """
    length = outputs.shape[1]
    labels, codes = targets[:, :length], targets[0, length:]
    answers, rows = outputs.argmax(-1), []
    for answer, wanted in zip(answers, labels, strict=True):
        judged = wanted != IGNORED
        mine, theirs = (entities(codes[found[judged]].tolist()) for found in (answer, wanted))
        words = float((answer == wanted)[judged].sum()), float(judged.sum())
        rows.append((len(mine & theirs), len(mine), len(theirs), *words))
    return np.array(rows, np.float64).reshape(-1, 5)


def entity_metrics(found: np.ndarray) -> dict[str, float]:
    """Return every known metric that counts (n, 5) of rows allow."""
    values = {name: float(_values(name, found.sum(0, keepdims=True))[0]) for name in KNOWN if _allowed(name, found)}
    return values


def why_missing(metric: str, found: np.ndarray) -> str:
    """Return why counts (n, 5) of rows do not allow a metric, an empty text where they do."""
    if _allowed(metric, found):
        return ""
    return "no word has a label" if metric == "accuracy" else "the rows have no entity"


def interval(metric: str, found: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric by resampled rows, None where they do not allow it."""
    if not _allowed(metric, found):
        return None
    draws = np.random.default_rng(seed).multinomial(len(found), np.full(len(found), 1 / len(found)), RESAMPLES)
    low, high = np.nanpercentile(_values(metric, draws @ found), (2.5, 97.5))
    return float(low), float(high)


def _allowed(metric: str, found: np.ndarray) -> bool:
    return bool(found[:, 4 if metric == "accuracy" else 2].sum() > 0)


def _values(metric: str, sums: np.ndarray) -> np.ndarray:
    """Return a metric (m,) of counts (m, 5)."""
    right, mine, theirs, words, judged = sums.T
    above, below = {
        "f1": (2 * right, mine + theirs),
        "precision": (right, mine),
        "recall": (right, theirs),
        "accuracy": (words, judged),
    }[metric]
    return above / np.maximum(below, 1)
