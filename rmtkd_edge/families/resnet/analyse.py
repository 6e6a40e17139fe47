"""Analyse a ResNet: one random pixel of each image (or its mean) at every site, after the ReLU.

Neighbouring pixels are much alike, so pixels are subsampled: q = d / n is then a matter of images, and is fixed. The
edge belongs to what the next convolution reads, after the ReLU; the effect is the logits' gradient before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.families.base import AnalyseOptions, Batches, Probe, Site, call
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.spectrum import (
    NULL_REPEATS,
    SampleRows,
    SiteSpectrum,
    as_blocks,
    eigenvalues_of,
    independent_share,
)
from rmtkd_edge.spectral import Moments, eigh_descending, norm_scaled, sign_flipped, weighted_spectrum
from rmtkd_edge.spectral.seeded import row_uniform


@dataclass
class SiteMoments:
    """Moments of a site's sample after the ReLU, before it where directions are wanted, and of the gradient."""

    site: Site
    activated: Moments
    linear: Moments | None
    effect: Moments
    null: list[Moments]
    rows: SampleRows


def analyse(
    net: ResNet, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
) -> list[SiteSpectrum]:
    """Return the spectrum of every site of a folded net from calibration images.

    Args:
        effect: images whose gradients weight the directions, where `weighting` is `effect`.
        options: with `select`, channels are to be chosen, else directions.

    Raises:
        DataError: activations are not finite.
    """
    moments = [_empty(site, options) for site in sites]
    _collect(net, moments, batches(), options)
    if options.analyse.weighting == "effect" and effect is not None:
        _collect_effect(net, moments, effect(), options.probe)
    return [_spectrum(m, options) for m in moments]


class Kept(dict[str, Tensor]):
    """Activations by place; of the places that are not wanted nothing is kept."""

    def __init__(self, wanted: Iterable[str]) -> None:
        super().__init__()
        self.wanted = set(wanted)

    def keep(self, name: str, tensor: Tensor) -> None:
        """Take what a tap sees."""
        if name in self.wanted:
            self[name] = tensor


def taps_of(net: ResNet, site: Site) -> list[str]:
    """Return the places of a site: of a stream every sum before a ReLU, of any other its own."""
    if site.kind in ("inner", "factor"):
        return [site.name]
    if site.name == "stem":
        return ["stem.sum"]
    assert site.layer is not None, "a stream belongs to a stage"
    names = [f"{block.name}.sum" for block in net.stages[site.layer - 1]]
    return ["stem.sum", *names] if site.layer == 1 and net.spec.stem_is_shared else names


def sample(
    taps: Mapping[str, Tensor], names: list[str], index: np.ndarray, options: Analyse, seed: int, relu: bool
) -> tuple[Tensor, np.ndarray]:
    """Return activations (n, channels) before the ReLU, and the number of each one's image, at a random place.

    `pixel`: `pixels_per_image` random pixels of each image; `image`: the mean over pixels, taken after the ReLU where
    `relu`.
    """
    depth = (row_uniform(seed + 1, index, 1)[:, 0] * len(names)).astype(np.int64)
    if options.sample == "image":
        pooled = torch.stack([(F.relu(taps[name]) if relu else taps[name]).mean((2, 3)) for name in names])
        return pooled[depth, np.arange(len(index))], index
    count = options.pixels_per_image
    drawn = row_uniform(seed, index, 2 * count)
    parts = []
    for row in range(len(index)):
        place = taps[names[depth[row]]][row]
        y = (drawn[row, :count] * place.shape[1]).astype(np.int64)
        x = (drawn[row, count:] * place.shape[2]).astype(np.int64)
        parts.append(place[:, y, x].T)
    return torch.cat(parts), np.repeat(index, count)


def _empty(site: Site, options: AnalyseOptions) -> SiteMoments:
    select = options.select and site.selectable
    null = [Moments(site.width) for _ in range(NULL_REPEATS)] if options.analyse.rule == "parallel" else []
    effect = Moments(site.width, heads=site.width if select else None)  # to select, the diagonal is enough
    return SiteMoments(site, Moments(site.width), None if select else Moments(site.width), effect, null, [])


@torch.no_grad()
def _collect(
    net: ResNet, moments: Sequence[SiteMoments], batches: Iterable[Mapping[str, Tensor]], options: AnalyseOptions
) -> None:
    analyse, seed = options.analyse, options.seed
    net.eval()
    for batch in batches:
        taps = Kept(name for m in moments for name in taps_of(net, m.site))
        call(net, batch, taps.keep)
        index = batch["index"].cpu().numpy()
        for m in moments:
            relu = m.site.selectable
            linear, images = sample(taps, taps_of(net, m.site), index, analyse, seed, relu)
            activated = F.relu(linear) if relu and analyse.sample != "image" else linear
            if m.linear is not None:
                m.linear.add(linear)
            activated, ids = norm_scaled(activated) if analyse.scale_columns else activated, torch.from_numpy(images)
            m.activated.add(activated)
            if analyse.effective_samples:
                m.rows.append((activated.float().cpu(), ids))
            for i, null in enumerate(m.null):
                null.add(sign_flipped(activated, ids, seed * NULL_REPEATS + i))


def _collect_effect(
    net: ResNet, moments: Sequence[SiteMoments], batches: Iterable[Mapping[str, Tensor]], probe: Probe
) -> None:
    """Add up the second moment, over pixels, of the gradient of a random scalar of the outputs."""
    net.eval()
    names = list(dict.fromkeys(name for m in moments for name in taps_of(net, m.site)))
    for batch in batches:
        taps = Kept(names)
        with torch.enable_grad():
            scalar = probe(call(net, batch, taps.keep), batch)
            grads = dict(zip(names, torch.autograd.grad(scalar, [taps[name] for name in names]), strict=True))
        for m in moments:
            for name in taps_of(net, m.site):
                m.effect.add(grads[name].permute(0, 2, 3, 1).reshape(-1, m.site.width))


def _spectrum(m: SiteMoments, options: AnalyseOptions) -> SiteSpectrum:
    analyse, select = options.analyse, m.linear is None
    share = independent_share(m.rows, options.seed) if analyse.effective_samples else None
    for moment in (m.activated, m.linear, m.effect, *m.null):
        if moment is not None:
            moment.all_reduce()
    activated = as_blocks(m.activated, analyse.center)[0]
    effect = m.effect.second() if m.effect.count else None
    null = [eigenvalues_of(as_blocks(x, centred=False)) for x in m.null]
    directions = torch.zeros(1, 0, m.site.width, dtype=torch.float64)
    if m.linear is not None:
        linear = as_blocks(m.linear, analyse.center)[0]
        found = eigh_descending(linear) if effect is None else weighted_spectrum(linear, effect, analyse.blend)
        directions = found[1].cpu()[None]
    return SiteSpectrum(
        site=m.site,
        eigenvalues=eigh_descending(activated)[0].clamp_min(0.0).cpu().numpy()[None],
        n=m.activated.count,
        n_eff=None if share is None else share * m.activated.count,
        directions=directions,
        null_eigenvalues=np.stack(null) if null else None,
        activated=activated.cpu() if select else None,
        weights=effect.flatten().cpu() if effect is not None and select else None,
    )
