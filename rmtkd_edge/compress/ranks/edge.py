"""From spectra to widths: the edge's rank of every site, aligned to the hardware, landing on the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from scipy.special import expit, logit

from rmtkd_edge.families.encoder.analyse import SiteSpectrum
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.encoder.spec import Spec, count_parameters, list_sites, with_ranks
from rmtkd_edge.config.recipe import Analyse, Compress
from rmtkd_edge.config.settings import did_you_mean
from rmtkd_edge.spectral import EdgeFit

BISECTIONS = 12


@dataclass(frozen=True)
class SiteRank:
    """A site's new width: `rank` by the edge at `quantile` (mean over heads), `width_after` once aligned."""

    spectrum: SiteSpectrum
    fits: list[EdgeFit]
    rank: int
    width_after: int
    quantile: float

    def facts(self, weighting: str) -> dict:
        """Return the plain figures of this site for the cycle's record (of the first head, where there are several)."""
        fit, site = self.fits[0], self.spectrum.site
        return {
            "name": site.name, "kind": site.kind, "heads": site.heads, "width_before": site.width,
            "width_after": self.width_after, "rule": fit.rule, "quantile": self.quantile, "weighting": weighting,
            "lambda_plus": fit.lambda_plus, "lambda_minus": fit.lambda_minus, "sigma2": fit.sigma2, "q": fit.q,
            "n": fit.n, "n_eff": fit.n_eff, "rank": self.rank, "aligned_rank": self.width_after, "note": fit.note,
        }  # fmt: skip


def align(rank: int, width: int, heads: int, multiple: int, minimum: int) -> int:
    """Return `rank` rounded up so that heads * rank is a multiple of `multiple`, within minimum..width."""
    unit = multiple // math.gcd(multiple, heads)
    return min(width, max(minimum, unit * math.ceil(max(rank, 1) / unit)))


def shifted(quantile: float, offset: float) -> float:
    """Return the quantile whose log-odds are those of `quantile` plus `offset`; 0 and 1 stay."""
    if offset == 0:  # to the bit
        return quantile
    return float(expit(logit(quantile) + offset))


def choose_ranks(
    spectra: Sequence[SiteSpectrum], analyse: Analyse, options: Compress, quantile: float, multiple: int,
    offsets: Mapping[str, float] = MappingProxyType({}),
) -> list[SiteRank]:  # fmt: skip
    """Return the rank of every site at a quantile, shifted by its kind's entry in `offsets` (log-odds).

    A recipe's explicit `compress.ranks` come before the edge's.
    """
    chosen = []
    for spectrum in spectra:
        site = spectrum.site
        at = shifted(quantile, offsets.get(site.kind, 0.0))
        fits = spectrum.fit(analyse, at)
        rank = math.ceil(sum(fit.rank for fit in fits) / len(fits))
        fixed = options.ranks.get(site.name, options.ranks.get(site.kind))
        step = multiple if options.align else 1
        width = min(fixed, site.width) if fixed else align(rank, site.width, site.heads, step, options.minimum_rank)
        chosen.append(SiteRank(spectrum, fits, rank, width, at))
    return chosen


def check_site_names(spec: Spec, key: str, names: Iterable[str]) -> None:
    """Raise RecipeError where a key names neither a site of the model nor a kind of its sites (all at once)."""
    sites = list_sites(spec)
    known = [*dict.fromkeys(site.kind for site in sites), *(site.name for site in sites)]
    odd = [f"{key}: no site or kind `{name}`{did_you_mean(name, known)}" for name in names if name not in known]
    if odd:
        raise RecipeError("\n".join(odd), f"sites: {', '.join(known[:12])}, ...")


def reduction(spec: Spec, chosen: Sequence[SiteRank], teacher_parameters: int) -> float:
    """Return the share of the teacher's parameters that is gone at these ranks."""
    ranks = {c.spectrum.site.name: c.width_after for c in chosen}
    return 1.0 - count_parameters(with_ranks(spec, ranks)) / teacher_parameters


def land_on_target(
    choose: Callable[[float], list[SiteRank]], removed: Callable[[Sequence[SiteRank]], float], target: float,
    highest: float,
) -> tuple[float, list[SiteRank]]:  # fmt: skip
    """Return the lowest quantile (at most `highest`), with its ranks, that removes the target share of the parameters.

    The edge is monotone in the quantile, so bisection finds it; where even `highest` is not enough, it is returned.
    """
    low, high, best = 0.0, highest, choose(highest)
    if removed(best) <= target:
        return high, best
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        ranks = choose(middle)
        if removed(ranks) >= target:
            high, best = middle, ranks
        else:
            low = middle
    return high, best
