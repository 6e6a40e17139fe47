"""How labels are shared out where a random draw could leave one of them out of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rmtkd_edge.errors import DataError

SHOWN = 8  # names in a message


class Labels(Protocol):
    """The labels of the rows of train."""

    def counts(self) -> np.ndarray:
        """Return how many rows have each label, int64 (labels,)."""

    def check(self, sizes: Sequence[int], roles: Sequence[str]) -> None:
        """Raise DataError where the labels cannot be on every side; `sizes` rows go to `roles`, the rest to train."""

    def order(self, sizes: Sequence[int], seed: int) -> np.ndarray:
        """Return all rows (n,): the first sizes[0] are one side, the next sizes[1] another, the rest is train."""


@dataclass(frozen=True)
class Classes:
    """The class of every row of train, as its number (n,) among `names`."""

    names: Sequence[str]
    numbers: np.ndarray

    def counts(self) -> np.ndarray:
        """Return how many rows each class has, int64 (classes,)."""
        return np.bincount(self.numbers, minlength=len(self.names))

    def check(self, sizes: Sequence[int], roles: Sequence[str]) -> None:
        """Raise DataError where a class has fewer rows than there are sides, or a side fewer than there are classes."""
        sides, counts = len(sizes) + 1, {n: int(c) for n, c in zip(self.names, self.counts(), strict=True) if c}
        if few := [f"{name} ({n})" for name, n in counts.items() if n < sides]:
            more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
            shown = ", ".join(few[:SHOWN]) + more
            raise DataError(
                f"train is shared out in {sides} ways, and these labels have fewer rows: {shown}",
                f"drop or merge these labels, or bring a split of your own for {' and '.join(roles)}",
            )
        total = len(self.numbers)
        for role, size in zip(roles, sizes, strict=True):
            if size < len(counts):
                share = np.ceil(100 * len(counts) / total) / 100
                raise DataError(
                    f"{size} rows of {total} that are held out as {role} cannot hold all {len(counts)} labels",
                    f"--set task.{role}_fraction={share:g}, or bring a {role} split",
                )

    def order(self, sizes: Sequence[int], seed: int) -> np.ndarray:
        """Return the rows so that every side has the same share of every class."""
        from sklearn.model_selection import train_test_split

        rest, taken = np.arange(len(self.numbers)), []
        for size in sizes:
            try:
                rest, side = train_test_split(rest, test_size=size, random_state=seed, stratify=self.numbers[rest])
            except ValueError as err:
                raise DataError(
                    f"train cannot be shared out so that all labels are everywhere: {err}",
                    "bring splits of your own, or set task.validation_fraction and task.test_fraction",
                ) from err
            taken.append(side)
        return np.concatenate([*taken, rest])


@dataclass(frozen=True)
class LabelSets:
    """Which labels every row of train has, bool (n, labels)."""

    present: np.ndarray

    def counts(self) -> np.ndarray:
        """Return how many rows have each label, int64 (labels,)."""
        found: np.ndarray = self.present.sum(0)
        return found

    def check(self, sizes: Sequence[int], roles: Sequence[str]) -> None:
        """Refuse nothing: a label that is not on every side is named with the data's other notes."""

    def order(self, sizes: Sequence[int], seed: int) -> np.ndarray:
        """Return the rows so that every side has about the same share of every label.

        Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data"): the label with the
        fewest rows left comes first, and each of its rows goes to the side that lacks most of them and is not full.
        """
        total, rng = len(self.present), np.random.default_rng(seed)
        room = np.array([*sizes, total - sum(sizes)])
        wanted = np.outer(room / total, self.counts())
        left, side = self.counts(), np.full(total, -1)
        while left.any():
            label = int(np.argmin(np.where(left > 0, left, total + 1)))
            for row in rng.permutation(np.flatnonzero((side < 0) & self.present[:, label])):
                open_sides = np.flatnonzero(room)
                chosen = max(rng.permutation(open_sides), key=lambda s: (wanted[s, label], room[s]))
                side[row] = chosen
                room[chosen] -= 1
                wanted[chosen] -= self.present[row]
                left -= self.present[row]
        side[rng.permutation(np.flatnonzero(side < 0))] = np.repeat(np.arange(len(room)), room)
        return np.concatenate([rng.permutation(np.flatnonzero(side == number)) for number in range(len(room))])
