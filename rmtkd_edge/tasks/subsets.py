"""Which rows of train spectra, effects and closed forms are taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rmtkd_edge.config.recipe import Recipe

JUDGED_ROWS = 1024  # a divergence is the mean of few large values: it needs more rows than effects do


@dataclass(frozen=True)
class Subsets:
    """Sorted row numbers of train, drawn once.

    Attributes:
        analysis: spectra are taken from them.
        effect: effects on the outputs are measured on them.
        warm: closed forms are fitted on them.
        trial: closed forms that are only compared are fitted on them.
        judged: such closed forms are compared on them; none of `trial`, where train has others.
    """

    analysis: np.ndarray
    effect: np.ndarray
    warm: np.ndarray
    trial: np.ndarray
    judged: np.ndarray


def draw_subsets(
    rows: int, recipe: Recipe, fitted: Callable[[np.ndarray], tuple[int, int]], analysed: int | None = None
) -> Subsets:
    """Return row numbers drawn under the recipe's seed: of a calibration subset, closed forms of the rest of train too.

    Args:
        rows: of train.
        fitted: takes shuffled row numbers, the subset's first, and returns how many of them closed forms and trials of
            closed forms are fitted on.
        analysed: rows that spectra take at most.
    """
    analyse, seed = recipe.analyse, recipe.seed
    count = min(rows, max(analyse.minimum_rows, round(analyse.calibration * rows)))
    subset = np.sort(np.random.default_rng([seed, 3]).permutation(rows)[:count])
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(subset)
    rest = np.random.default_rng([seed, 4]).permutation(np.setdiff1d(np.arange(rows), subset))
    longer = np.concatenate([order, rest])
    warm, trial = (np.sort(longer[:n]) for n in fitted(longer))
    order = rng.permutation(subset)
    others = longer[len(trial) : len(trial) + JUDGED_ROWS]
    judged = np.sort(others) if len(others) else trial
    return Subsets(np.sort(order[:analysed]), np.sort(order[: analyse.weighting_rows]), warm, trial, judged)
