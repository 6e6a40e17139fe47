"""Which kinds of sites give up how much: the answers decide, at as many parameters as one quantile would remove.

At one quantile for all, each site keeps what stands out of its own bulk, whatever that costs in parameters and however
little the answers depend on it. Here every kind has a quantile of its own (its log-odds moved), found by coordinate
search: the model is cut in closed form, and what counts is how far its answers move from those before the cycle
(KL divergence on training rows). No validation row is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rmtkd_edge.compress import cycle as steps
from rmtkd_edge.families.encoder.analyse import SiteSpectrum
from rmtkd_edge.compress.data import Data
from rmtkd_edge.compress.ranks.order import kl_divergence, log_answers
from rmtkd_edge.compress.ranks.edge import SiteRank, land_on_target, reduction
from rmtkd_edge.config.recipe import Recipe

STEPS = (2.0, 1.0)  # log-odds by which a kind's quantile is moved, coarse to fine
LEAST_GAIN = 0.005  # of the divergence, else a move is noise
SLACK = 0.002  # of the parameters, by which an allocation may miss the share

Offsets = Mapping[str, float]


def allocated(
    state: steps.State, spectra: list[SiteSpectrum], picked: list[SiteRank], data: Data, recipe: Recipe,
    accelerator: Any, multiple: int, teacher_parameters: int, report: Callable[..., None],
) -> list[SiteRank]:  # fmt: skip
    """Return ranks that remove as many parameters as those in `picked` and move the answers least.

    Sites with ranks of their own in the recipe keep them; with fewer than two kinds left there is nothing to weigh.
    """
    kinds = free_kinds(spectra, recipe)
    if len(kinds) < 2:
        return picked
    spec, choose = state.folded.spec, steps.chooser(state, spectra, recipe, multiple)
    removed = lambda chosen: reduction(spec, chosen, teacher_parameters)  # noqa: E731
    share, few = removed(picked), replace(data, warm=data.trial)
    before = log_answers(state.folded.to(accelerator.device), data, accelerator)
    known: dict[tuple[int, ...], float] = {}
    least = 1 + 2 * len(STEPS) * len(kinds)  # of closed forms; every gain brings more

    def land(offsets: Offsets) -> list[SiteRank]:
        return land_on_target(lambda at: choose(at, offsets), removed, share, 1.0)[1]

    def moved(offsets: Offsets) -> float:
        chosen = land(offsets)
        widths = tuple(c.width_after for c in chosen)
        if widths not in known:
            if removed(chosen) < share - SLACK:
                known[widths] = math.inf
            else:
                student, _ = steps.closed_form(state, chosen, few, recipe, accelerator)
                known[widths] = kl_divergence(before, log_answers(student, data, accelerator), accelerator)
            report("trial", done=len(known), total=max(len(known), least))
        return known[widths]

    def tell(offsets: Offsets, divergence: float) -> None:
        widths = ", ".join(f"{kind} {mean_width(land(offsets), kind):.0f}" for kind in kinds)
        report("note", text=f"allocation: the answers move by {divergence:.2e} nats at mean widths {widths}")

    report("note", text=f"allocation: weighing {', '.join(kinds)} against each other, some dozens of closed forms")
    return land(search(moved, kinds, tell))


def free_kinds(spectra: Sequence[SiteSpectrum], recipe: Recipe) -> list[str]:
    """Return the kinds of the sites whose ranks the recipe does not fix."""
    fixed = recipe.compress.ranks
    return list(dict.fromkeys(s.site.kind for s in spectra if s.site.name not in fixed and s.site.kind not in fixed))


def mean_width(chosen: Sequence[SiteRank], kind: str) -> float:
    """Return the mean width after the cut of the sites of a kind."""
    widths = [c.width_after for c in chosen if c.spectrum.site.kind == kind]
    return sum(widths) / len(widths)


def search(
    score: Callable[[Offsets], float], kinds: Sequence[str], tell: Callable[[Offsets, float], None]
) -> dict[str, float]:
    """Return the offset of every kind with the lowest score that steps along one kind at a time find, from zero.

    `tell` hears of every improvement, and of the start.
    """
    best = dict.fromkeys(kinds, 0.0)
    lowest = score(best)
    tell(best, lowest)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for kind in kinds:
                for move in (step, -step):
                    offsets = {**best, kind: best[kind] + move}
                    found = score(offsets)
                    if found < lowest * (1 - LEAST_GAIN):
                        best, lowest, improved = offsets, found, True
                        tell(best, lowest)
                        break
    return best
