"""Which kinds of sites give up how much, at as many parameters as one quantile for all would remove.

At one quantile for all, each site keeps the eigenvalues above its own edge, whatever that costs in parameters and
however little the outputs depend on it. Here every kind has a quantile of its own (its log-odds moved), found by
coordinate search: the model is cut in closed form, and what counts is how far its outputs move from those before the
cycle (the task's divergence on training rows). No validation row is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.ranks.cut import divergence, narrowed, outputs_of, projected
from rmtkd_edge.compress.ranks.edge import Choose, Offsets, SiteRank, land_on_target, widths_of
from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.families.base import Site
from rmtkd_edge.methods.base import fixed_rank, reduction

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

STEPS = (2.0, 1.0)  # log-odds by which a kind's quantile is moved, coarse to fine
LEAST_GAIN = 0.005  # of the divergence, else a move is noise
SLACK = 0.002  # of the parameters, by which an allocation may miss the share


def allocated(context: Context, folded: Model, choose: Choose, picked: list[SiteRank]) -> list[SiteRank]:
    """Return ranks that remove as many parameters as those in `picked` and move the outputs least.

    Sites with ranks of their own in the recipe keep them; with fewer than two kinds left there is nothing to weigh.
    """
    kinds = free_kinds([c.spectrum.site for c in picked], context.recipe.compress)
    if len(kinds) < 2:
        return picked
    trials = _Trials(context.trial, folded, choose, picked, kinds)
    context.report("note", text=f"allocation: weighing {', '.join(kinds)} against each other, some dozens of trials")
    return trials.land(search(trials.moved, kinds, trials.tell))


class _Trials:
    """Closed forms at the share of parameters that `picked` removes, each compared once."""

    def __init__(
        self, context: Context, folded: Model, choose: Choose, picked: list[SiteRank], kinds: Sequence[str]
    ) -> None:
        self.context, self.folded, self.choose, self.kinds = context, folded, choose, kinds
        self.share = self.removed(picked)
        self.before = outputs_of(context, folded)
        self.known: dict[tuple[int, ...], float] = {}
        self.least = 1 + 2 * len(STEPS) * len(kinds)  # every gain brings more

    def removed(self, chosen: Sequence[SiteRank]) -> float:
        return reduction(self.folded.spec, widths_of(chosen), self.context.teacher_parameters)

    def land(self, offsets: Offsets) -> list[SiteRank]:
        return land_on_target(lambda at: self.choose(at, offsets), self.removed, self.share, 1.0)[1]

    def moved(self, offsets: Offsets) -> float:
        """Return how far the outputs move where kinds are cut with these offsets, infinite where too little is cut."""
        chosen = self.land(offsets)
        widths = tuple(c.width_after for c in chosen)
        if widths not in self.known:
            self.known[widths] = math.inf
            if self.removed(chosen) >= self.share - SLACK:
                student, _ = narrowed(self.context, self.folded, projected(chosen, self.context))
                self.known[widths] = divergence(self.context, self.before, outputs_of(self.context, student))
            self.context.report("trial", done=len(self.known), total=max(len(self.known), self.least))
        return self.known[widths]

    def tell(self, offsets: Offsets, found: float) -> None:
        widths = ", ".join(f"{kind} {mean_width(self.land(offsets), kind):.0f}" for kind in self.kinds)
        self.context.report("note", text=f"allocation: the outputs move by {found:.2e} nats at mean widths {widths}")


def free_kinds(sites: Sequence[Site], options: Compress) -> list[str]:
    """Return the kinds of the sites whose ranks the options do not fix."""
    return list(dict.fromkeys(site.kind for site in sites if fixed_rank(options, site) is None))


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
