"""Matching of inner states: the student's residual stream, decoded by a fixed affine map, against the teacher's.

The teacher is certain of most of its own training rows, so that its outputs alone say little about them; its inner
states say more. A student's stream is a projection of its teacher's, so that the map back is known in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import call
from rmtkd_edge.methods.base import Objective, Pair, Seen, distillation
from rmtkd_edge.spectral import CrossMoments, Moments

if TYPE_CHECKING:
    from rmtkd_edge.config.recipe import Recipe
    from rmtkd_edge.tasks.base import Batch, Task

RIDGE = 1e-4


@dataclass(frozen=True)
class Decoder:
    """The affine map from a narrow state (n, k) to the teacher's (n, d); `variance` is the teacher's, all channels."""

    weight: Tensor
    bias: Tensor
    variance: float

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared error of the decoded rows as a share of the variance."""
        decoded = F.linear(student, self.weight, self.bias)
        return F.mse_loss(decoded, teacher) * teacher.shape[1] / self.variance


def recipe_objective(task: Task, recipe: Recipe, pair: Pair) -> Objective:
    """Return `distillation` as the recipe sets it, with matching where `distil.match` says so."""
    base = distillation(task, recipe.distil.alpha, recipe.distil.temperature)
    options = recipe.distil
    return matching(base, pair, options.match, options.states_first) if options.match else base


def matching(base: Objective, pair: Pair, weight: float, states_first: float = 0.0) -> Objective:
    """Return `base` plus `weight` times the mean share of the stream's variance that the student does not show.

    Args:
        states_first: share of the steps, at the beginning, that leave `base` out.

    Raises:
        RecipeError: the family names no places to match.
    """
    taps = matched_taps(pair)
    if not taps:
        raise RecipeError(f"the family {pair.family.name} names no states to match", "--set distil.match=0")
    decoders = fit_decoders(pair, taps)
    done = 0.0

    def begin(share_done: float) -> None:
        nonlocal done
        done = share_done
        if base.on_step is not None:
            base.on_step(share_done)

    def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
        assert teacher is not None, "the objective asks for a teacher"
        own = {tap: pair.family.rows(student.taps[tap], batch).float() for tap in taps}
        other = {tap: pair.family.rows(teacher.taps[tap], batch).float() for tap in taps.values()}
        matched = torch.stack([decoders[mine].loss(own[mine], other[its]) for mine, its in taps.items()]).mean()
        if done < states_first:
            return weight * matched
        return base.loss(student, batch, teacher if base.teacher else None) + weight * matched

    every = dict.fromkeys((*base.taps, *taps, *taps.values()))
    return replace(base, loss=loss, teacher=True, taps=tuple(every), on_step=begin)


def matched_taps(pair: Pair) -> dict[str, str]:
    """Return, by tap of the student's stream, the teacher's that it is compared with.

    After a layer next to which layers are gone it is the state that the next layer that stays was given.
    """
    own, other = (pair.family.stream_taps(model.spec) for model in (pair.student, pair.teacher))
    if pair.layers is None:
        return dict(zip(own, other, strict=True))
    given = (*pair.layers[1:], len(other) - 1)
    return dict(zip(own, (other[0], *(other[i] for i in given)), strict=True))


@torch.no_grad()
def fit_decoders(pair: Pair, taps: Mapping[str, str]) -> dict[str, Decoder]:
    """Return, by tap, the least-squares map from the student's states to the teacher's, on calibration batches."""
    cross: dict[str, CrossMoments] = {}
    spread: dict[str, Moments] = {}
    for batch in pair.warm():
        narrow: dict[str, Tensor] = {}
        wide: dict[str, Tensor] = {}
        call(pair.student.eval(), batch, narrow.__setitem__)
        call(pair.teacher.eval(), batch, wide.__setitem__)
        for tap, its in taps.items():
            x, y = pair.family.rows(narrow[tap], batch), pair.family.rows(wide[its], batch)
            if tap not in cross:
                cross[tap] = CrossMoments(x.shape[1], y.shape[1], name=tap, ridge=RIDGE)
                spread[tap] = Moments(y.shape[1], heads=y.shape[1], name=tap)  # the diagonal alone
            cross[tap].add(x, y)
            spread[tap].add(y)
    like = next(pair.student.parameters())
    found = {}
    for tap in taps:
        cross[tap].all_reduce()
        spread[tap].all_reduce()
        weight, bias = cross[tap].solve(RIDGE)
        found[tap] = Decoder(weight.to(like), bias.to(like), float(spread[tap].covariance().sum()))
    return found
