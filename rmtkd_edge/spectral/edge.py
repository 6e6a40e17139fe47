"""Where noise ends and signal begins in a spectrum: one function, `fit_edge`, and what it returns."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtkd_edge.errors import UserError
from rmtkd_edge.spectral.bulk import Bulk, make_bulk
from rmtkd_edge.spectral.rules import RULES, Choice, Options

POINT = 0.01  # q below this: the law's edge is within 21 % of sigma2, and the rank follows the quantile alone
FEW = 16  # eigenvalues below which a histogram of them is no distribution


@dataclass(frozen=True)
class EdgeFit:
    """The edge of one spectrum; eigenvalue-like fields are in the units of the second moment.

    `rank` directions lie above `lambda_plus + margin`. `n` samples were used, worth `n_eff` independent ones;
    q = (d - null_directions) / n_eff. `quantile` and `distance` are None for rules that have none.
    """

    rule: str
    rank: int
    sigma2: float
    lambda_plus: float
    lambda_minus: float
    q: float
    n: int
    n_eff: float
    quantile: float | None
    distance: float | None
    margin: float
    null_directions: int
    note: str


def fit_edge(
    eigenvalues: ArrayLike,
    n: int,
    *,
    rule: str = "window",
    quantile: float = 0.5,
    delta: float = 0.05,
    n_eff: float | None = None,
    margin_level: float | None = None,
    explained: float = 0.95,
    null_eigenvalues: NDArray[np.float64] | None = None,
) -> EdgeFit:
    """Return the edge and the number of directions above it, by the named rule.

    `eigenvalues` (d,), any order, of X X^T / n with X (d, n). `margin_level`: Tracy-Widom level added to the edge
    (None: the plain edge; `bema` then adds its own 0.90; for `parallel` the level of the null's quantile, 0.95).
    Raises UserError for an unknown rule or a key out of range, DataError for a spectrum that is none.
    """
    options = Options(quantile, delta, margin_level, explained, null_eigenvalues)
    return fit_bulk(make_bulk(eigenvalues, n, n_eff), rule, options)


def fit_bulk(bulk: Bulk, rule: str, options: Options) -> EdgeFit:
    """Return what `fit_edge` does, of a spectrum that is ready: many quantiles share what does not depend on them."""
    if rule not in RULES:
        close = difflib.get_close_matches(str(rule), RULES, n=1, cutoff=0.4)
        hint = f'did you mean "{close[0]}"?' if close else "choose one of " + ", ".join(RULES)
        raise UserError(f'There is no edge rule "{rule}"; the rules are {", ".join(RULES)}.', hint)
    _check_range("quantile", options.quantile, 0 <= options.quantile <= 1, "in [0, 1]")
    _check_range("delta", options.delta, options.delta >= 0, "0 or more")
    _check_range("explained", options.explained, 0 < options.explained <= 1, "in (0, 1]")
    level = options.margin_level
    _check_range("margin_level", level, level is None or 0 < level < 1, "between 0 and 1")
    choice = RULES[rule](bulk, options)
    above = int((bulk.values > choice.lambda_plus + choice.margin).sum())
    return EdgeFit(
        rule=rule,
        rank=above if choice.rank is None else choice.rank,
        sigma2=choice.sigma2,
        lambda_plus=choice.lambda_plus,
        lambda_minus=choice.lambda_minus,
        q=bulk.q,
        n=bulk.n,
        n_eff=bulk.n_eff,
        quantile=choice.quantile,
        distance=choice.distance,
        margin=choice.margin,
        null_directions=bulk.null_directions,
        note="; ".join(_notes(bulk, choice)),
    )


def _check_range(name: str, value: float | None, good: bool, where: str) -> None:
    if not good:
        raise UserError(f"{name} must be {where}, it is {value}.")


def _notes(bulk: Bulk, choice: Choice) -> list[str]:
    """Return what a reader of the report has to know about this fit."""
    notes = [choice.note] if choice.note else []
    if choice.distance is None:  # no law was fitted, nothing below applies
        return notes
    if bulk.q < POINT:
        tail = " and the rank follows the quantile alone" if choice.quantile is not None else ""
        notes.append(
            f"q = {bulk.q:.2g}: with n >> d the law has shrunk to a point, "
            f"the edge is {choice.lambda_plus / choice.sigma2:.3f} sigma2{tail}"
        )
    if bulk.q > 1:
        notes.append(
            f"q = {bulk.q:.2g} > 1: fewer samples than directions, fitted to the {len(bulk.scaled)} largest eigenvalues"
        )
    if len(bulk.scaled) < FEW:
        notes.append(f"only {len(bulk.scaled)} eigenvalues: too few for a distribution")
    return notes
