"""Spectra of sites where an elementwise function may follow: the edge from after it, the directions from before it.

Where none follows, and the site is weighted by effect, the edge is that of the weighted spectrum too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.base import AnalyseOptions, Batches, Site, call
from rmtkd_edge.families.spectrum import (
    NULL_REPEATS,
    SampleRows,
    SiteSpectrum,
    as_blocks,
    eigenvalues_of,
    independent_share,
)
from rmtkd_edge.spectral import Moments, eigh_descending, norm_scaled, sign_flipped, weighted_matrix, weighted_spectrum

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

Rows = tuple[Tensor, Tensor, np.ndarray]
"""Samples (n, d) as a layer gives them, as the next one reads them, and the number of the row that each is of."""


class Places(Protocol):
    """Where a family looks at a site."""

    def taps(self, site: Site) -> Sequence[str]:
        """Return the taps of a site."""

    def sample(self, taps: Mapping[str, Tensor], site: Site, index: np.ndarray) -> Rows:
        """Return independent samples of a site from the activations of a batch; `index` numbers its rows."""

    def as_rows(self, gradient: Tensor) -> Tensor:
        """Return the gradient at a tap as rows (n, d)."""


@dataclass(frozen=True)
class OneTap:
    """A tap of its name for every site, (B, d), before a function that the next layer reads it through."""

    activation: Callable[[Tensor], Tensor]

    def taps(self, site: Site) -> Sequence[str]:
        """Return the site's name."""
        return [site.name]

    def sample(self, taps: Mapping[str, Tensor], site: Site, index: np.ndarray) -> Rows:
        """Return one sample a row."""
        return taps[site.name], self.activation(taps[site.name]), index

    def as_rows(self, gradient: Tensor) -> Tensor:
        """Return the gradient as it is."""
        return gradient


@dataclass
class SiteMoments:
    """Moments of a site's samples after the function, before it where directions are wanted, and of the gradient."""

    site: Site
    activated: Moments
    linear: Moments | None
    effect: Moments
    null: list[Moments]
    rows: SampleRows


def analyse_samples(
    model: Model,
    places: Places,
    sites: Sequence[Site],
    batches: Batches,
    effect: Batches | None,
    options: AnalyseOptions,
) -> list[SiteSpectrum]:
    """Return the spectrum of every site of a folded model.

    Args:
        effect: batches whose gradients weight the directions, where `weighting` is `effect`.
        options: with `select`, channels are to be chosen, else directions.

    Raises:
        DataError: activations are not finite.
    """
    model.eval()
    moments = [_empty(site, options) for site in sites]
    _collect(model, places, moments, batches, options)
    if options.analyse.weighting == "effect" and effect is not None:
        _collect_effect(model, places, moments, effect, options)
    return [_spectrum(m, options) for m in moments]


class Kept(dict[str, Tensor]):
    """Activations by tap; of the taps that are not wanted nothing is kept."""

    def __init__(self, places: Places, moments: Sequence[SiteMoments]) -> None:
        super().__init__()
        self.wanted = list(dict.fromkeys(name for m in moments for name in places.taps(m.site)))

    def keep(self, name: str, tensor: Tensor) -> None:
        """Take what a tap sees."""
        if name in self.wanted:
            self[name] = tensor


def _empty(site: Site, options: AnalyseOptions) -> SiteMoments:
    select = options.select and site.selectable
    channels = site.width * site.heads

    def new() -> Moments:
        return Moments(channels, heads=site.heads if site.heads > 1 else None)

    null = [new() for _ in range(NULL_REPEATS)] if options.analyse.rule == "parallel" else []
    effect = Moments(channels, heads=channels) if select else new()  # to select, the diagonal is enough
    return SiteMoments(site, new(), None if select else new(), effect, null, [])


@torch.no_grad()
def _collect(
    model: Model, places: Places, moments: Sequence[SiteMoments], batches: Batches, options: AnalyseOptions
) -> None:
    for batch in batches():
        taps = Kept(places, moments)
        call(model, batch, taps.keep)
        for m in moments:
            linear, activated, rows = places.sample(taps, m.site, batch["index"].cpu().numpy())
            if m.linear is not None:
                m.linear.add(linear)
            activated, ids = norm_scaled(activated) if options.analyse.scale_columns else activated, torch.tensor(rows)
            m.activated.add(activated)
            if options.analyse.effective_samples:
                m.rows.append((activated.float().cpu(), ids))
            for i, null in enumerate(m.null):
                null.add(sign_flipped(activated, ids, options.seed * NULL_REPEATS + i))


def _collect_effect(
    model: Model, places: Places, moments: Sequence[SiteMoments], batches: Batches, options: AnalyseOptions
) -> None:
    """Add up the second moment of the gradient of the task's probe."""
    for batch in batches():
        taps = Kept(places, moments)
        with torch.enable_grad():
            scalar = options.probe(call(model, batch, taps.keep), batch)
            found = torch.autograd.grad(scalar, [taps[name] for name in taps.wanted])
        grads = dict(zip(taps.wanted, found, strict=True))
        for m in moments:
            for name in places.taps(m.site):
                m.effect.add(places.as_rows(grads[name]))


def _spectrum(m: SiteMoments, options: AnalyseOptions) -> SiteSpectrum:
    analyse, select = options.analyse, m.linear is None
    share = independent_share(m.rows, options.seed) if analyse.effective_samples else None
    for moment in (m.activated, m.linear, m.effect, *m.null):
        if moment is not None:
            moment.all_reduce()
    activated = as_blocks(m.activated, analyse.center)
    values = eigh_descending(activated)[0]
    effect = as_blocks(m.effect, centred=False) if m.effect.count else None
    nulls = [as_blocks(x, centred=False) for x in m.null]
    directions = torch.zeros(1, 0, m.site.width, dtype=torch.float64)
    if m.linear is not None:
        linear = as_blocks(m.linear, analyse.center)
        found = eigh_descending(linear) if effect is None else weighted_spectrum(linear, effect, analyse.blend)
        directions = found[1].cpu()
        if effect is not None and m.site.weighted and not m.site.selectable:
            values = found[0]
            nulls = [weighted_matrix(x, effect, analyse.blend) for x in nulls]
    return SiteSpectrum(
        site=m.site,
        eigenvalues=values.clamp_min(0.0).cpu().numpy(),
        n=m.activated.count,
        n_eff=None if share is None else share * m.activated.count,
        directions=directions,
        null_eigenvalues=np.stack([eigenvalues_of(x) for x in nulls]) if nulls else None,
        activated=activated[0].cpu() if select else None,
        weights=effect.flatten().cpu() if effect is not None and select else None,
    )
