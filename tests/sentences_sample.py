"""Sentences whose label can be learnt, and the words that they are made of."""

from __future__ import annotations

import csv

import numpy as np

GOOD = ["great", "fine", "lovely", "bright", "warm"]
BAD = ["awful", "dull", "bleak", "cold", "poor"]
PLAIN = [
    "the",
    "film",
    "was",
    "a",
    "very",
    "plot",
    "and",
    "cast",
    "of",
    "story",
    "this",
    "with",
    "some",
    "scenes",
    "music",
]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Return (sentence, label) rows; the label is the majority of good and bad words."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        positive = bool(rng.integers(2))
        words = list(rng.choice(PLAIN, rng.integers(3, 9))) + list(rng.choice(GOOD if positive else BAD, 2))
        words += list(rng.choice(BAD if positive else GOOD, 1)) if rng.random() < 0.2 else []
        rng.shuffle(words)
        rows.append((" ".join(words), "positive" if positive else "negative"))
    return rows


def write_csv(path, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
