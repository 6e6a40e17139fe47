"""Where the parameters go: which sites give up how much, within the budget that one quantile for all would keep.

At one quantile for all, each site keeps the eigenvalues above its own edge, whatever that costs in parameters and
however little the outputs depend on it. Here every kind of sites has a quantile of its own, and one that changes with
depth: its log-odds are a level plus a slope times the depth, found by coordinate search. It starts from one quantile of
the recipe's rule or of explained variance, whichever moves the outputs less. The model is cut in closed form, and what
counts is how far its outputs move from those before the cycle (the task's divergence), on rows of train that the closed
form was not fitted on: on fitted rows the wider consumer always looks better. Sites are not priced one by one, since
their errors add up and are corrected together. No validation row is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.ranks.budget import budgets_of, most_left
from rmtkd_edge.compress.ranks.cut import chooser, divergence, narrower, outputs_of, projected
from rmtkd_edge.compress.ranks.edge import CLOSE, SiteRank, land_on_target, widths_of
from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.families.base import Site
from rmtkd_edge.methods.base import Cut, fixed_rank, reduction
from rmtkd_edge.run.records.trials import Trial

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.model import Model
    from rmtkd_edge.families.spectrum import SiteSpectrum

OTHER_RULE = "explained-variance"  # which knows no law, and is better where no edge stands out
FIRST_STEP, LEAST_STEP = 1.0, 0.3  # of log-odds
LONGER, SHORTER = 1.3, 0.5  # what a step is multiplied by after it gained, and after it did not
FARTHEST = 4.0  # of log-odds: how far a step is doubled while it changes nothing (a factor wider than its site is none)
LEAST_GAIN = 0.002  # of the divergence, else a move is noise
PATIENCE, WORTH = 8, 0.05  # the search ends where so many trials have taken less than this share off the divergence


class Move(NamedTuple):
    """One dimension of the search: the quantile of a kind of sites, at all depths or from shallow to deep."""

    kind: str
    along: Literal["level", "depth"]


Moves = Mapping[Move, float]


def allocated(trials: Trials, picked: Sequence[SiteRank], most: int | None = None) -> list[SiteRank]:
    """Return ranks that keep the budget as those in `picked` do and move the outputs least.

    Sites with ranks of their own in the recipe keep them; with one site left there is nothing to weigh.

    Args:
        most: allocations that are compared; those of the recipe when None.
    """
    context, most = trials.context, trials.most if most is None else most
    free = free_sites([c.spectrum.site for c in picked], context.recipe.compress)
    if len(free) < 2:
        return list(picked)
    moves = dimensions(free)
    weighed = ", ".join(dict.fromkeys(move.kind for move in moves))
    context.report("note", text=f"allocation: weighing {weighed} against each other, {most} trials at most")
    aim = trials.left(picked)
    if trials.budgets:
        aim = min(aim, 0.0)  # what one quantile left over is used

    @cache
    def landed(rule: str, at: tuple[tuple[Move, float], ...]) -> list[SiteRank]:
        choose, offsets = trials.choose[rule], offsets_of(free, dict(at))
        return land_on_target(lambda at, held: choose(at, offsets, held), trials.left, aim, 1.0)[1]

    def land(at: Moves, rule: str) -> list[SiteRank]:
        return landed(rule, tuple(at.items()))

    def score(at: Moves, rule: str) -> float:
        chosen = land(at, rule)
        return trials.divergence(chosen) if trials.left(chosen) >= aim else math.inf

    def tell(at: Moves, found: float, rule: str) -> None:
        chosen, kinds = land(at, rule), dict.fromkeys(site.kind for site in free)
        widths = ", ".join(f"{kind} {mean_width(chosen, kind):.0f}" for kind in kinds)
        context.report("note", text=f"allocation: divergence from the teacher {found:.2e} at mean widths {widths}")

    still = dict.fromkeys(moves, 0.0)
    farthest = trials.left(land(still, next(iter(trials.choose)))) + CLOSE  # coarse steps may waste the budget
    rules = [rule for rule in trials.choose if trials.left(land(still, rule)) <= farthest][:most]
    rule = min(rules, key=partial(score, still))
    if len(rules) > 1:
        context.report("note", text=f"allocation: from one quantile of {rule}, the best of {', '.join(rules)}")
    best = search(partial(score, rule=rule), moves, partial(tell, rule=rule), most + 1 - len(rules))
    return land(best, rule)


class Trials:
    """Closed forms of one model, each compared with it once.

    Attributes:
        choose: gives the ranks at a quantile, by rule: the recipe's, then the other one that a search may start from.
        most: trials that the recipe allows.

    Args:
        known: trials of an earlier process.
        keep: is given all trials after every new one.
    """

    def __init__(
        self,
        context: Context,
        folded: Model,
        spectra: Sequence[SiteSpectrum],
        known: Sequence[Trial] = (),
        keep: Callable[[tuple[Trial, ...]], None] = lambda trials: None,
    ) -> None:
        rules = dict.fromkeys((context.recipe.analyse.rule, OTHER_RULE))
        self.choose = {rule: chooser(context, folded.spec, spectra, rule) for rule in rules}
        self.context, self.folded, self.keep = context, folded, keep
        self.most = context.recipe.compress.trials
        self.known = list(known)
        self.budgets = budgets_of(context, folded.spec)

    def left(self, chosen: Sequence[SiteRank]) -> float:
        """Return what these ranks leave of the budget; without one, the share of the parameters that is gone."""
        spec, widths = self.folded.spec, widths_of(chosen)
        if not self.budgets:
            return reduction(spec, widths, self.context.teacher_parameters)
        return most_left(self.budgets, spec.with_ranks(widths))

    def divergence(self, chosen: Sequence[SiteRank]) -> float:
        """Return how far the outputs move at these ranks, infinite where they are no longer finite."""
        widths, spec = widths_of(chosen), self.folded.spec
        shape = spec.with_ranks(widths)  # the same one where a factor is wider than its site
        found = next((trial for trial in self.known if spec.with_ranks(trial.widths) == shape), None)
        if found is None:
            moved = divergence(
                self.context, self.before, outputs_of(self.context, self.narrow(projected(chosen, self.context)))
            )
            found = Trial(widths, moved if math.isfinite(moved) else None)
            self.known.append(found)
            self.keep(tuple(self.known))
            self.context.report("trial", done=len(self.known), total=max(len(self.known), self.most))
        return math.inf if found.divergence is None else found.divergence

    @cached_property
    def narrow(self) -> Callable[[Cut], Model]:
        """Narrows the model, see `narrower`."""
        return narrower(self.context, self.folded)

    @cached_property
    def before(self) -> list[Tensor]:
        """The model's own outputs."""
        return outputs_of(self.context, self.folded)


def free_sites(sites: Sequence[Site], options: Compress) -> list[Site]:
    """Return the sites whose ranks the options do not fix."""
    return [site for site in sites if fixed_rank(options, site) is None]


def dimensions(sites: Sequence[Site]) -> list[Move]:
    """Return what can be moved: the level of every kind, then the slope of every kind with several depths."""
    depths: dict[str, set[int | None]] = {}
    for site in sites:
        depths.setdefault(site.kind, set()).add(site.layer)
    levels = [Move(kind, "level") for kind in depths] if len(depths) > 1 else []
    return [*levels, *(Move(kind, "depth") for kind, found in depths.items() if len(found) > 1)]


def offsets_of(sites: Sequence[Site], moves: Moves) -> dict[str, float]:
    """Return, by site, the log-odds that moves add to its quantile; depth runs from -1/2 to 1/2."""
    layers = [site.layer for site in sites if site.layer is not None]
    first, last = min(layers, default=0), max(layers, default=0)

    def depth(site: Site) -> float:
        return 0.0 if site.layer is None or first == last else (site.layer - first) / (last - first) - 0.5

    return {
        site.name: moves.get(Move(site.kind, "level"), 0.0) + moves.get(Move(site.kind, "depth"), 0.0) * depth(site)
        for site in sites
    }


def mean_width(chosen: Sequence[SiteRank], kind: str) -> float:
    """Return the mean width after the cut of the sites of a kind."""
    widths = [c.width_after for c in chosen if c.spectrum.site.kind == kind]
    return sum(widths) / len(widths)


def search(
    score: Callable[[Moves], float],
    moves: Sequence[Move],
    tell: Callable[[Moves, float], None],
    trials: int,
    patience: int = PATIENCE,
) -> Moves:
    """Return the moves of the lowest score that steps along one dimension at a time find, from none.

    Args:
        tell: hears of the start and of every improvement.
        trials: scores that are looked at, at most.
        patience: the search ends, once it has looked at every dimension, where so many scores took off too little.
    """
    best, step = dict.fromkeys(moves, 0.0), dict.fromkeys(moves, FIRST_STEP)
    lows = [score(best)]  # the lowest after each
    tell(best, lows[0])
    improved, swept = True, False
    while improved or max(step.values()) >= LEAST_STEP:
        improved = False
        for move in sorted(moves, key=lambda move: -step[move]):  # those that gained, first
            for sign in (1.0, -1.0):
                if len(lows) == trials or (swept and not worthwhile(lows, patience)):
                    return best
                lowest = lows[-1]
                tried = {**best, move: best[move] + sign * step[move]}
                found, far = score(tried), 2 * step[move]
                while found == lowest and far <= FARTHEST:
                    tried = {**best, move: best[move] + sign * far}
                    found, far = score(tried), 2 * far
                gained = found < lowest * (1 - LEAST_GAIN)
                lows.append(found if gained else lowest)
                if gained:
                    best, improved = tried, True
                    step[move] *= LONGER
                    tell(best, found)
                    break
            else:
                step[move] *= SHORTER
        swept = True
    return best


def worthwhile(lows: Sequence[float], patience: int) -> bool:
    """Return whether the last scores took enough off to go on; `lows` has the lowest after each."""
    return len(lows) <= patience or lows[-1] <= lows[-1 - patience] * (1 - WORTH)
