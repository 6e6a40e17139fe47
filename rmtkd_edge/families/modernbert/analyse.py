"""Analyse a ModernBERT: stream samples of every site into second moments, from which edge and directions come.

A sample is a few random valid, non-special tokens of every sequence, as in an encoder's analysis. Whatever reads the
stream normalises it first, and its size grows with depth, so the stream is sampled normalised, at a random depth, and
the gradient counts in units of its size: the directions are then those of what the layers read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.base import AnalyseOptions, Batches, Site, call
from rmtkd_edge.families.modernbert.fold import plain
from rmtkd_edge.families.modernbert.module import ModernBert
from rmtkd_edge.families.spectrum import (
    NULL_REPEATS,
    SampleRows,
    SiteSpectrum,
    as_blocks,
    eigenvalues_of,
    independent_share,
)
from rmtkd_edge.families.token_sampling import Picked, pick_tokens
from rmtkd_edge.families.tokens import special_tokens
from rmtkd_edge.spectral import Moments, eigh_descending, norm_scaled, sign_flipped, weighted_matrix, weighted_spectrum

Batch = Mapping[str, Tensor]


@dataclass
class SiteMoments:
    """Moments of a site's samples, of those that directions come from where they are others, and of the gradient."""

    site: Site
    sample: Moments
    linear: Moments | None  # of an FFN that is projected: input and gate, before the product
    effect: Moments
    null: list[Moments]
    rows: SampleRows


def analyse_sites(
    model: ModernBert, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
) -> list[SiteSpectrum]:
    """Return the spectrum of every site of a folded model, from calibration batches (and their gradients).

    Raises:
        DataError: activations are degenerate (not finite, fewer than two samples).
    """
    model.eval()
    moments = [_empty(site, options) for site in sites]
    _collect(model, moments, batches, options)
    if options.analyse.weighting == "effect" and effect is not None:
        _collect_effect(model, moments, effect, options)
    return [_spectrum(m, options) for m in moments]


def _empty(site: Site, options: AnalyseOptions) -> SiteMoments:
    dim, select = site.width * site.heads, options.select and site.selectable

    def new() -> Moments:
        return Moments(dim, heads=site.heads if site.heads > 1 else None)

    null = [new() for _ in range(NULL_REPEATS)] if options.analyse.rule == "parallel" else []
    projected = site.selectable and not select
    effect = Moments(dim, heads=dim) if select else new()  # to select, the diagonal is enough
    return SiteMoments(site, new(), new() if projected else None, effect, null, [])


@torch.no_grad()
def _collect(model: ModernBert, moments: Sequence[SiteMoments], batches: Batches, options: AnalyseOptions) -> None:
    depths, analyse, seed = len(model.layers) + 1, options.analyse, options.seed
    for batch in batches():
        taps: dict[str, Tensor] = {}
        call(model, batch, taps.__setitem__)
        mask, index = batch["attention_mask"].bool(), batch["index"].cpu().numpy()
        valid = mask & ~special_tokens(batch)
        valid[~valid.any(1), 0] = True  # a sequence of special tokens alone is represented by its first
        picked = pick_tokens(valid.cpu().numpy(), index, depths, analyse, seed)
        for m in moments:
            sample, blocks = _sample(m.site, taps, picked, index, model.spec.eps)
            sample, ids = norm_scaled(sample) if analyse.scale_columns else sample, torch.from_numpy(blocks)
            m.sample.add(sample)
            if m.linear is not None:
                for part in ("up", "gate"):
                    m.linear.add(_of_one_size(taps[m.site.name.replace("ffn", part)][picked.rows, picked.columns]))
            if analyse.effective_samples:
                m.rows.append((sample.float().cpu(), ids))
            for i, null in enumerate(m.null):
                null.add(sign_flipped(sample, ids, seed * NULL_REPEATS + i))


def _sample(
    site: Site, taps: Mapping[str, Tensor], picked: Picked, index: np.ndarray, eps: float
) -> tuple[Tensor, np.ndarray]:
    """Return samples (n, d) of a site and the number of the sequence that each is of."""
    if site.kind == "pooler":
        return taps["pooler"], index
    if site.kind == "stream":
        states = torch.stack([taps[f"stream.{i}"] for i in range(int(picked.depths.max()) + 1)])
        return plain(states[picked.depths, picked.rows, picked.columns], eps), picked.sequences
    return taps[site.name][picked.rows, picked.columns], picked.sequences


def _of_one_size(rows: Tensor) -> Tensor:
    """Return rows as a share of their common size, so that input and gate count alike."""
    return rows / rows.pow(2).mean().sqrt().clamp_min(torch.finfo(rows.dtype).tiny)


def _collect_effect(
    model: ModernBert, moments: Sequence[SiteMoments], batches: Batches, options: AnalyseOptions
) -> None:
    """Add up the second moment of the gradient of the task's probe at every site."""
    names = {m.site.name: _taps_of(m, len(model.layers) + 1) for m in moments}
    every = list(dict.fromkeys(name for found in names.values() for name in found))
    for batch in batches():
        taps: dict[str, Tensor] = {}
        output = options.probe(call(model, batch, taps.__setitem__), batch)
        grads = dict(zip(every, torch.autograd.grad(output, [taps[n] for n in every]), strict=True))
        valid = batch["attention_mask"].bool()
        for m in moments:
            for rows in _gradients(m.site, names[m.site.name], taps, grads, valid):
                m.effect.add(rows)


def _gradients(
    site: Site, names: Sequence[str], taps: Mapping[str, Tensor], grads: Mapping[str, Tensor], valid: Tensor
) -> Iterator[Tensor]:
    for name in names:
        rows = grads[name] if grads[name].ndim == 2 else grads[name][valid]
        yield rows * size(taps[name].detach()[valid]) if site.kind == "stream" else rows


def size(states: Tensor) -> Tensor:
    """Return the standard deviation of each token's channels, (n, 1): what a norm divides by."""
    return states.var(-1, unbiased=False, keepdim=True).sqrt()


def _taps_of(m: SiteMoments, depths: int) -> list[str]:
    if m.site.kind == "stream":
        return [f"stream.{i}" for i in range(depths)]
    return [m.site.name.replace("ffn", part) for part in ("up", "gate")] if m.linear is not None else [m.site.name]


def _spectrum(m: SiteMoments, options: AnalyseOptions) -> SiteSpectrum:
    blend, centred, select = options.analyse.blend, options.analyse.center, options.select and m.site.selectable
    share = independent_share(m.rows, options.seed) if options.analyse.effective_samples else None
    for moment in (m.sample, m.linear, m.effect, *m.null):
        if moment is not None:
            moment.all_reduce()
    sample = as_blocks(m.sample, centred)
    effect = as_blocks(m.effect, False) if m.effect.count and not select else None
    weight = effect if m.site.weighted else None
    if select:
        values, directions = torch.linalg.eigvalsh(sample).flip(-1), sample[:, :0]
    elif m.linear is not None:
        values, linear = torch.linalg.eigvalsh(sample).flip(-1), as_blocks(m.linear, centred)
        found = eigh_descending(linear) if effect is None else weighted_spectrum(linear, effect, blend)
        directions = found[1]
    elif weight is not None:
        values, directions = weighted_spectrum(sample, weight, blend)
    else:
        values, directions = eigh_descending(sample)
    null = [as_blocks(x, False) for x in m.null]
    null = [x if weight is None else weighted_matrix(x, weight, blend) for x in null]
    return SiteSpectrum(
        site=m.site,
        eigenvalues=values.clamp_min(0.0).cpu().numpy(),
        n=m.sample.count,
        n_eff=None if share is None else share * m.sample.count,
        directions=directions.cpu(),
        null_eigenvalues=np.stack([eigenvalues_of(x) for x in null]) if null else None,
        activated=sample[0].cpu() if select else None,
        weights=m.effect.second().flatten().cpu() if select and m.effect.count else None,
    )
