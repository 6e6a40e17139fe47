"""From spectra to widths: the edge's rank of every site, aligned to the hardware, landing on the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Protocol

from scipy.special import expit, logit

from rmtkd_edge.compress.ranks.budget import Budget, most_left
from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.config.recipe import WITHOUT_QUANTILE, Recipe
from rmtkd_edge.config.settings import did_you_mean
from rmtkd_edge.errors import RecipeError, UserError
from rmtkd_edge.families.base import Family, Spec, list_sites
from rmtkd_edge.families.spectrum import SiteSpectrum
from rmtkd_edge.methods.base import align, fixed_rank
from rmtkd_edge.run.records.cycle import SiteRecord, WidthRecord
from rmtkd_edge.spectral import EdgeFit

BISECTIONS = 12
CLOSE = 0.002  # of the parameters, that a landing may remove beyond the target
DEFAULT_MULTIPLE = 8  # vector width, in float32, of the least of the x86 servers and laptops that this runs on
Offsets = Mapping[str, float]
NO_OFFSETS: Offsets = MappingProxyType({})
Held = Mapping[str, float]  # quantiles by site that no longer move
Settle = Callable[[dict[str, int]], dict[str, int]]


@dataclass(frozen=True)
class SiteRank:
    """A site's new width: `rank` by the edge at `quantile` (mean over heads), `width_after` once aligned."""

    spectrum: SiteSpectrum
    fits: list[EdgeFit]
    rank: int
    width_after: int
    quantile: float

    @property
    def name(self) -> str:
        """Return the site's name."""
        return self.spectrum.site.name

    def record(self, weighting: str) -> SiteRecord:
        """Return the figures of this site (of the first head, where there are several)."""
        fit, site = self.fits[0], self.spectrum.site
        return SiteRecord(
            name=site.name,
            kind=site.kind,
            heads=site.heads,
            width_before=site.width,
            width_after=self.width_after,
            rule=fit.rule,
            quantile=self.quantile,
            weighting=weighting if site.weighted else "none",
            lambda_plus=fit.lambda_plus,
            lambda_minus=fit.lambda_minus,
            sigma2=fit.sigma2,
            q=fit.q,
            n=fit.n,
            n_eff=fit.n_eff,
            rank=self.rank,
            aligned_rank=self.width_after,
            note=fit.note,
        )


Choose = Callable[[float, Offsets, Held], list[SiteRank]]


def widths_of(chosen: Sequence[SiteRank]) -> dict[str, int]:
    """Return the new widths by site."""
    return {c.name: c.width_after for c in chosen}


def shrinks(sites: Iterable[SiteRecord | WidthRecord], saturation: float) -> bool:
    """Return whether any site would become narrower by more than the share `saturation`."""
    return any(1 - site.width_after / site.width_before > saturation for site in sites)


def multiple_for(family: Family, profile: HardwareProfile | None) -> int:
    """Return the multiple that a family's widths are rounded up to on a device."""
    return DEFAULT_MULTIPLE if profile is None else getattr(profile.alignment, family.curve)


def shifted(quantile: float, offset: float) -> float:
    """Return the quantile whose log-odds are those of `quantile` plus `offset`; 0 and 1 stay."""
    if offset == 0:  # to the bit
        return quantile
    return float(expit(logit(quantile) + offset))


def choose_ranks(
    spectra: Sequence[SiteSpectrum],
    recipe: Recipe,
    quantile: float,
    multiple: int,
    offsets: Offsets = NO_OFFSETS,
    settle: Settle = lambda widths: widths,
    held: Held = MappingProxyType({}),
) -> list[SiteRank]:
    """Return the rank of every site; a recipe's explicit `compress.ranks` come before the edge's.

    Args:
        multiple: ranks are rounded up to it.
        offsets: log-odds by site, by which the quantile is shifted.
        settle: the family's correction of widths by site.
        held: quantiles by site that come before `quantile` and its offset.
    """
    chosen = []
    for spectrum in spectra:
        site = spectrum.site
        at = held[site.name] if site.name in held else shifted(quantile, offsets.get(site.name, 0.0))
        fits = spectrum.fit(recipe.analyse, at)
        rank = math.ceil(sum(fit.rank for fit in fits) / len(fits))
        width = fixed_rank(recipe.compress, site)
        if width is None:
            width = align(rank, site.width, site.heads, multiple, recipe.compress.minimum_rank)
        chosen.append(SiteRank(spectrum, fits, rank, width, at))
    settled = settle(widths_of(chosen))
    return [replace(c, width_after=settled[c.name]) for c in chosen]


def pick_ranks(
    choose: Choose, spec: Spec, recipe: Recipe, quantile: float, budgets: Sequence[Budget], once: bool
) -> tuple[float, list[SiteRank]]:
    """Return the quantile used and the ranks: `once` solves for the budget, a cycle is only kept from passing it.

    Raises:
        UserError: one cut at the least ranks that the rule allows misses every budget.
    """
    options = recipe.compress

    def left(chosen: Sequence[SiteRank]) -> float:
        return most_left(budgets, spec.with_ranks(widths_of(chosen)))

    chosen = choose(quantile, NO_OFFSETS, {})
    if not budgets or all(fixed_rank(options, c.spectrum.site) is not None for c in chosen):
        return quantile, chosen
    highest = 1.0 if once else quantile
    used, chosen = land_on_target(lambda at, held: choose(at, NO_OFFSETS, held), left, 0.0, highest)
    if once and recipe.analyse.rule not in WITHOUT_QUANTILE and left(chosen) < 0:
        shape = spec.with_ranks(widths_of(chosen))
        raise UserError(
            f"cutting {len(chosen)} sites to the least that the rule {recipe.analyse.rule} allows "
            + "; it ".join(budget.told(shape) for budget in budgets),
            f"--set {budgets[0].key}={budgets[0].least(shape):.3g}, or more of compress.sites",
        )
    return used, chosen


class Landing(Protocol):
    """Gives ranks at a quantile; `held` are quantiles by site that come before it."""

    def __call__(self, at: float, held: Held) -> list[SiteRank]: ...


def land_on_target(
    choose: Landing,
    removed: Callable[[Sequence[SiteRank]], float],
    target: float,
    highest: float,
) -> tuple[float, list[SiteRank]]:
    """Return a quantile (at most `highest`), with its ranks, at which `removed` reaches the target.

    One step of a wide site, such as an encoder's stream, can remove a percent of the parameters at once. The site that
    went beyond the target then keeps its width, and the others get back what it removed too much: they are at lower
    quantiles than the one that is returned.
    """
    held: dict[str, float] = {}
    used, chosen, wider = lowest_quantile(partial(choose, held=held), removed, target, highest)
    others = used
    while removed(chosen) - target > CLOSE:
        widths = widths_of(wider)
        stepped = {c.name: c.quantile for c in chosen if c.name not in held and widths[c.name] > c.width_after}
        if not stepped:
            break
        held |= stepped
        others, chosen, wider = lowest_quantile(partial(choose, held=held), removed, target, others)
    return used, chosen


def lowest_quantile(
    choose: Callable[[float], list[SiteRank]],
    removed: Callable[[Sequence[SiteRank]], float],
    target: float,
    highest: float,
) -> tuple[float, list[SiteRank], list[SiteRank]]:
    """Return the lowest quantile that removes the target share, its ranks, and the ranks just short of the target.

    The edge is monotone in the quantile, so bisection finds it; where even `highest` is not enough, it is returned.
    """
    low, high, best = 0.0, highest, choose(highest)
    if removed(best) <= target:
        return high, best, best
    short = choose(low)
    if removed(short) >= target:
        return low, short, short
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        ranks = choose(middle)
        if removed(ranks) >= target:
            high, best = middle, ranks
        else:
            low, short = middle, ranks
    return high, best, short


def check_site_names(spec: Spec, key: str, names: Iterable[str]) -> None:
    """Raise RecipeError where a key names neither a site of the model nor a kind of its sites (all at once)."""
    sites = list_sites(spec)
    known = [*dict.fromkeys(site.kind for site in sites), *(site.name for site in sites)]
    odd = [f"{key}: no site or kind `{name}`{did_you_mean(name, known)}" for name in names if name not in known]
    if odd:
        raise RecipeError("\n".join(odd), f"sites: {', '.join(known[:12])}, ...")
