"""Which sites to cut first under a latency budget: those whose cut moves the outputs least for each millisecond saved.

Every site is cut alone, to the rank that the edge gives it, in closed form; what it loses is the divergence of the
outputs from those of the uncut model (the metric of a few hundred rows is too coarse), what it saves is read off the
device's curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.latency import Predict
from rmtkd_edge.compress.ranks.cut import divergence, narrowed, outputs_of, projected, spectra_of
from rmtkd_edge.compress.ranks.edge import choose_ranks
from rmtkd_edge.run.records.prices import SitePrice

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

LEAST_SAVED_MS = 1e-9  # a site that saves less comes last, whatever it loses


def price(site: str, width_after: int, lost: float, saved_ms: float) -> SitePrice:
    """Return what cutting one site alone loses and saves; one that saves nothing has no price a millisecond."""
    finite = math.isfinite(lost)
    per_ms = lost / saved_ms if finite and saved_ms > LEAST_SAVED_MS else None
    return SitePrice(site, width_after, lost if finite else None, saved_ms, per_ms)


def cheapest_first(prices: Sequence[SitePrice]) -> tuple[SitePrice, ...]:
    """Return prices in the order in which sites are cut; ties keep their order."""
    return tuple(sorted(prices, key=lambda p: math.inf if p.kl_per_ms is None else p.kl_per_ms))


def prices(context: Context, folded: Model, names: Sequence[str], predict: Predict) -> tuple[SitePrice, ...]:
    """Return the price of every site of `names`, cheapest first."""
    spectra = spectra_of(context, folded, names)
    chosen = choose_ranks(spectra, context.recipe, context.recipe.analyse.quantile, context.step)
    before, now = outputs_of(context, folded), predict(folded.spec)
    found = []
    for choice in chosen:
        cut = projected([choice], context)
        if not cut.widths:
            found.append(price(choice.name, choice.width_after, 0.0, 0.0))
            continue
        student, _ = narrowed(context, folded, cut)
        lost, saved = divergence(context, before, outputs_of(context, student)), now - predict(student.spec)
        found.append(price(choice.name, choice.width_after, lost, saved))
        context.report("note", text=f"{choice.name}: divergence from the uncut model {lost:.2e}, {saved:.3f} ms saved")
    return cheapest_first(found)
