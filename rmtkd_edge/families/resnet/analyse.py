"""Analyse a convolutional net: one random pixel of each image (or its mean) at every site, behind the ReLU.

Neighbouring pixels are much alike, so pixels are subsampled: q = d / n is then a matter of images, and is fixed. The
edge belongs to what the next convolution reads, behind the ReLU; the effect is the logits' gradient in front of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.encoder.analyse import NULL_REPEATS, Batch, SiteSpectrum, independent_share
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.encoder.spec import Site
from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.spectral import Moments, eigh_descending, norm_scaled, sign_flipped, weighted_spectrum
from rmtkd_edge.spectral.seeded import row_contrasts, row_uniform


@dataclass
class SiteMoments:
    """Moments of a site's sample behind the ReLU, in front of it where directions are wanted, and of the gradient."""

    site: Site
    behind: Moments
    front: Moments | None
    effect: Moments
    null: list[Moments]
    rows: list[tuple[Tensor, Tensor]]


def analyse_convnet(
    net: ConvNet,
    sites: Sequence[Site],
    batches: Callable[[], Iterable[Batch]],
    effect_batches: Callable[[], Iterable[Batch]] | None,
    options: Analyse,
    seed: int,
    select: bool,
) -> list[SiteSpectrum]:
    """Return the spectrum of every site from calibration images (and gradients, where weighted by effect).

    With `select` channels are to be chosen, else directions. Raises DataError for activations that are not finite.
    """
    moments = [_empty(site, options, select) for site in sites]
    _collect(net, moments, batches(), options, seed)
    if options.weighting == "effect" and effect_batches is not None:
        _collect_effect(net, moments, effect_batches(), seed)
    return [_spectrum(m, options, seed) for m in moments]


class Kept(dict[str, Tensor]):
    """Activations by place; of the places that are not wanted nothing is kept."""

    def __init__(self, wanted: Iterable[str]) -> None:
        super().__init__()
        self.wanted = set(wanted)

    def keep(self, name: str, tensor: Tensor) -> None:
        """Take what a tap sees."""
        if name in self.wanted:
            self[name] = tensor


def taps_of(net: ConvNet, site: Site) -> list[str]:
    """Return the places of a site: of a stream every sum in front of a ReLU, of any other its own."""
    if site.kind in ("inner", "factor"):
        return [site.name]
    if site.name == "stem":
        return ["stem.sum"]
    assert site.layer is not None, "a stream belongs to a stage"
    names = [f"{block.name}.sum" for block in net.stages[site.layer - 1]]
    return ["stem.sum", *names] if site.layer == 1 and net.spec.stem_is_shared else names


def _empty(site: Site, options: Analyse, select: bool) -> SiteMoments:
    new = lambda: Moments(site.width)  # noqa: E731
    select = select and site.kind != "factor"  # there is no channel to choose in front of a linear map
    null = [new() for _ in range(NULL_REPEATS)] if options.rule == "parallel" else []
    effect = Moments(site.width, heads=site.width) if select else new()  # to select, the diagonal is enough
    return SiteMoments(site, new(), None if select else new(), effect, null, [])


@torch.no_grad()
def _collect(net, moments, batches, options, seed) -> None:
    net.eval()
    for batch in batches:
        taps = Kept(name for m in moments for name in taps_of(net, m.site))
        net(batch["pixel_values"], tap=taps.keep)
        index = batch["index"].cpu().numpy()
        for m in moments:
            relu = m.site.kind != "factor"
            front, images = sample(taps, taps_of(net, m.site), index, options, seed, relu)
            behind = F.relu(front) if relu and options.sample == "pixel" else front
            if m.front is not None:
                m.front.add(front)
            behind, ids = (norm_scaled(behind) if options.scale_columns else behind), torch.from_numpy(images)
            m.behind.add(behind)
            if options.effective_samples:
                m.rows.append((behind.float().cpu(), ids))
            for i, null in enumerate(m.null):
                null.add(sign_flipped(behind, ids, seed * NULL_REPEATS + i))


def sample(
    taps: dict[str, Tensor], names: list[str], index: np.ndarray, options: Analyse, seed: int, relu: bool
) -> tuple[Tensor, np.ndarray]:
    """Return activations (n, channels) in front of the ReLU, and the number of each one's image, at a random place.

    `pixel`: `pixels_per_image` random pixels of each image; `image`: the mean over pixels, with `relu` behind it.
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


def _collect_effect(net, moments, batches, seed) -> None:
    """Second moment over pixels of the gradient of the logits, E of (v^T z)' for random v that sum to zero."""
    net.eval()
    names = list(dict.fromkeys(name for m in moments for name in taps_of(net, m.site)))
    for batch in batches:
        taps = Kept(names)
        with torch.enable_grad():
            logits = net(batch["pixel_values"], tap=taps.keep)
            drawn = row_contrasts(seed + 2, batch["index"].cpu().numpy(), logits.shape[1])
            output = (logits * torch.from_numpy(drawn).to(logits)).sum()
            grads = dict(zip(names, torch.autograd.grad(output, [taps[name] for name in names]), strict=True))
        for m in moments:
            for name in taps_of(net, m.site):
                m.effect.add(grads[name].permute(0, 2, 3, 1).reshape(-1, m.site.width))


def _spectrum(m: SiteMoments, options: Analyse, seed: int) -> SiteSpectrum:
    select = m.front is None
    share = independent_share(m.rows, seed) if options.effective_samples else None
    for moment in (m.behind, m.front, m.effect, *m.null):
        if moment is not None:
            moment.all_reduce()
    behind, effect = _read(m.behind, options), m.effect.second() if m.effect.count else None
    values = eigh_descending(behind)[0].clamp_min(0.0).cpu().numpy()[None]
    null = [torch.linalg.eigvalsh(x.second()).flip(-1).clamp_min(0.0).cpu().numpy()[None] for x in m.null]
    n_eff = None if share is None else share * m.behind.count
    directions = torch.zeros(1, 0, m.site.width, dtype=torch.float64)
    if m.front is not None:
        front = _read(m.front, options)
        found = eigh_descending(front) if effect is None else weighted_spectrum(front, effect, options.blend)
        directions = found[1].cpu()[None]
    weights = effect.flatten().cpu() if effect is not None and select else None
    return SiteSpectrum(
        m.site, values, m.behind.count, n_eff, directions, np.stack(null) if null else None,
        behind.cpu() if select else None, weights,
    )  # fmt: skip


def _read(moments: Moments, options: Analyse) -> Tensor:
    return moments.covariance() if options.center else moments.second()
