"""Analyse an encoder: stream the activations of every site into a second moment, from which edge and directions come.

The columns are a *sample*: a few random valid, non-special tokens of every sequence (for the stream at a random depth),
because q = d / n is the resolution of the edge and must not depend on how long the sentences are.
Where sites are weighted by effect, the gradient of the output is streamed over a few more sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.base import AnalyseOptions, Batches, Site, call
from rmtkd_edge.families.encoder.linear_moments import LinearMoments
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.passes import tokens_of
from rmtkd_edge.families.encoder.spec import EncoderSpec, tap_of
from rmtkd_edge.families.spectrum import (
    NULL_REPEATS,
    SampleRows,
    SiteSpectrum,
    as_blocks,
    eigenvalues_of,
    independent_share,
)
from rmtkd_edge.families.token_sampling import Picked, by_depth, pick_tokens
from rmtkd_edge.families.tokens import special_tokens
from rmtkd_edge.spectral import (
    Moments,
    eigh_descending,
    norm_scaled,
    sign_flipped,
    weighted_matrix,
    weighted_spectrum,
)

Batch = Mapping[str, Tensor]
MEMORY_BYTES = 1_500_000_000  # float64 moments held at a time; more sites than fit are analysed in further passes


@dataclass
class SiteMoments:
    """What one pass leaves of a site: moments of its sample and of the output's gradient there."""

    site: Site
    sample: Moments
    effect: Moments
    partner: Moments | None  # of a query/key site: its keys
    distances: tuple[Moments | None, Moments | None]  # and keys and queries of distances, where there are
    null: list[Moments]
    rows: SampleRows | None
    linear: LinearMoments | None

    def all_reduce(self) -> None:
        """Sum over the processes of a distributed run."""
        for moment in (self.sample, self.effect, self.partner, *self.distances, self.linear, *self.null):
            if moment is not None:
                moment.all_reduce()


def site_bytes(site: Site, linear: bool, inputs: int, replicates: int = 0, terms: int = 1) -> int:
    """Return the memory, in bytes, of the float64 moments of a site (`linear`: through an input of that width).

    Args:
        terms: of attention scores: those of distances have a moment each.
    """
    null = 8 * replicates * site.heads * site.width**2
    if linear:
        return null + 8 * (site.width**2 + 2 * (inputs + 1) ** 2 + 2 * site.width * (inputs + 1))
    if site.kind == "ffn":  # channels are selected: one moment, and the gradient's diagonal
        return null + 8 * (site.width**2 + site.width)
    kept = 2 + terms if site.kind == "qk" else 3
    return null + 8 * kept * site.heads * site.width**2


def in_passes(sites: Sequence[Site], sizes: Sequence[int], limit: int = MEMORY_BYTES) -> Iterator[list[Site]]:
    """Yield groups of sites whose moments, of `sizes` bytes, fit into `limit` bytes together."""
    group: list[Site] = []
    used = 0
    for site, size in zip(sites, sizes, strict=True):
        if group and used + size > limit:
            yield group
            group, used = [], 0
        group.append(site)
        used += size
    if group:
        yield group


def analyse_sites(
    encoder: Encoder, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
) -> list[SiteSpectrum]:
    """Return the spectrum of every site, from calibration batches (and their gradients, where weighted by effect).

    `batches` and `effect` are called once a pass. Where channels are selected, those of an FFN are; its edge always
    comes from after the nonlinearity, unweighted.

    Raises:
        DataError: activations are degenerate (not finite, fewer than two samples).
    """
    spectra = []
    replicates = NULL_REPEATS if options.analyse.rule == "parallel" else 0
    spec = encoder.spec
    sizes = [site_bytes(site, is_linear(site, options.select), spec.width, replicates, spec.terms) for site in sites]
    for group in in_passes(sites, sizes):
        moments = [_empty(site, encoder, options) for site in group]
        _collect(encoder, moments, batches(), options)
        if options.analyse.weighting == "effect" and effect is not None:
            _collect_effect(encoder, moments, effect(), options)
        spectra += [_spectrum(m, options) for m in moments]
    return spectra


def is_linear(site: Site, select: bool) -> bool:
    """Return whether a site's directions come through its narrower input: an FFN's, unless channels are selected."""
    return site.kind == "ffn" and not select


def _empty(site: Site, encoder: Encoder, options: AnalyseOptions) -> SiteMoments:
    dim = site.width * site.heads

    def new() -> Moments:
        return Moments(dim, heads=site.heads if site.heads > 1 else None)

    linear, distances = None, encoder.spec.disentangled if site.kind == "qk" else None
    if is_linear(site, options.select):
        linear = LinearMoments(*encoder.layers[site.layer or 0].up.folded())
    c2p, p2c = distances is not None and distances.c2p, distances is not None and distances.p2c
    return SiteMoments(
        site=site,
        sample=new(),
        effect=Moments(dim, heads=dim) if site.kind == "ffn" else new(),  # of an FFN only the diagonal is used
        partner=new() if site.kind == "qk" else None,
        distances=(new() if c2p else None, new() if p2c else None),
        null=[new() for _ in range(NULL_REPEATS)] if options.analyse.rule == "parallel" else [],
        rows=[] if options.analyse.effective_samples else None,
        linear=linear,
    )


@torch.no_grad()
def _collect(
    encoder: Encoder, moments: Sequence[SiteMoments], batches: Iterable[Batch], options: AnalyseOptions
) -> None:
    encoder.eval()
    depths, repeats, seed = encoder.spec.depth + 1, encoder.spec.repeats, options.seed
    sites = [m.site for m in moments]
    table = any(site.kind == "embedding" for site in sites)
    for batch, layers in (part for whole in batches for part in by_depth(whole, sites, depths, seed, repeats)):
        taps: dict[str, Tensor] = {}
        if layers is None:
            call(encoder, batch, taps.__setitem__)
        else:
            arguments = (batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
            encoder.states(*arguments, tap=taps.__setitem__, layers=layers)
        mask, index = batch["attention_mask"].bool(), batch["index"].cpu().numpy()
        valid = mask & ~special_tokens(batch)
        valid[~valid.any(1), 0] = True  # a sequence of special tokens alone is represented by its first
        picked = pick_tokens(valid.cpu().numpy(), index, depths, options.analyse, seed)
        # special tokens have embeddings too
        anywhere = pick_tokens(mask.cpu().numpy(), index, depths, options.analyse, seed) if table else picked
        for m in moments:
            _add(m, taps, valid, anywhere if m.site.kind == "embedding" else picked, encoder, options)


def _add(
    m: SiteMoments, taps: Mapping[str, Tensor], valid: Tensor, picked: Picked, encoder: Encoder, options: AnalyseOptions
) -> None:
    name = m.site.name
    place = (picked.rows, picked.columns)
    tokens = partial(tokens_of, taps, picked=picked, repeats=encoder.spec.repeats, seed=options.seed)
    blocks = picked.sequences
    if m.site.kind == "pooler":
        sample = taps["pooler"]
        blocks = blocks[np.diff(picked.rows, prepend=-1) > 0]  # one row a sequence
    elif m.site.kind == "stream":
        states = torch.stack([taps[f"stream.{i}"] for i in range(int(picked.depths.max()) + 1)])
        sample = states[(picked.depths, *place)]
    elif m.partner is not None:
        layer = name.removesuffix(".qk")
        sample = tokens(f"{layer}.q")
        for number in range(encoder.spec.repeats):
            m.partner.add(taps[tap_of(f"{layer}.k", number)][valid])
        for x, found in zip("kq", m.distances, strict=True):
            if found is not None:
                found.add(taps[f"{layer}.distance.{x}"][0, 1:-1])
    elif m.site.kind == "ffn":  # the edge belongs to what the consumer reads, after the GELU
        sample = encoder.layers[m.site.layer or 0].activation(tokens(name))
        if m.linear is not None:
            m.linear.add(tokens(f"{name.removesuffix('.ffn')}.mid"))
    elif m.site.layer is not None:
        sample = tokens(name)
    else:
        sample = taps[name][place]
    sample = norm_scaled(sample) if options.analyse.scale_columns else sample
    ids = torch.from_numpy(blocks)
    m.sample.add(sample)
    if m.rows is not None:
        m.rows.append((sample.float().cpu(), ids))
    for i, null in enumerate(m.null):
        null.add(sign_flipped(sample, ids, options.seed * NULL_REPEATS + i))


def _collect_effect(
    encoder: Encoder, moments: Sequence[SiteMoments], batches: Iterable[Batch], options: AnalyseOptions
) -> None:
    """Second moment of the gradient of the task's probe at every site; query/key sites have their keys instead."""
    wanted = [m for m in moments if m.partner is None]
    if not wanted:
        return
    encoder.eval()
    names = {m.site.name: _taps_of(m.site, encoder.spec) for m in wanted}
    every = [name for found in names.values() for name in found]
    for batch in batches:
        taps: dict[str, Tensor] = {}
        output = options.probe(call(encoder, batch, taps.__setitem__), batch)
        grads = dict(zip(every, torch.autograd.grad(output, [taps[n] for n in every]), strict=True))
        valid = batch["attention_mask"].bool()
        for m in wanted:
            add: Callable[[Tensor], None] = m.effect.add if m.linear is None else m.linear.add_gradient
            for name in names[m.site.name]:
                add(grads[name] if grads[name].ndim == 2 else grads[name][valid])


def _taps_of(site: Site, spec: EncoderSpec) -> list[str]:
    if site.kind == "stream":
        return [f"stream.{i}" for i in range(spec.depth + 1)]
    return [site.name] if site.layer is None else [tap_of(site.name, number) for number in range(spec.repeats)]


def _spectrum(m: SiteMoments, options: AnalyseOptions) -> SiteSpectrum:
    share = independent_share(m.rows, options.seed) if m.rows is not None else None
    m.all_reduce()
    sample = as_blocks(m.sample, options.analyse.center)
    effect = as_blocks(m.effect, False) if m.effect.count and m.site.weighted else None
    # softmax over keys is blind to what all keys share: the centred key covariance is the query's effect
    partner = None if m.partner is None else as_blocks(m.partner, True)
    of_keys, of_queries = m.distances
    if partner is not None and of_keys is not None:
        partner = partner + as_blocks(of_keys, True).to(partner)
    if of_queries is not None:
        sample = sample + as_blocks(of_queries, False).to(sample)
    activated = weights = None
    if m.linear is not None:
        values = torch.linalg.eigvalsh(sample).flip(-1)
        directions = m.linear.spectrum(options.analyse.blend, options.analyse.center)[1][None]
    elif m.site.kind == "ffn":
        values = torch.linalg.eigvalsh(sample).flip(-1)
        activated, directions = sample[0].cpu(), sample[:, :0]
        weights = m.effect.second().flatten().cpu() if m.effect.count else None
    elif partner is not None:
        values, _ = weighted_spectrum(sample, partner, 0.0)
        directions = eigh_descending(sample / _traces(sample) + partner / _traces(partner))[1]
    elif effect is not None:
        values, directions = weighted_spectrum(sample, effect, options.analyse.blend)
    else:
        values, directions = eigh_descending(sample)
    null = [_null(x, effect, partner, options.analyse.blend) for x in m.null]
    return SiteSpectrum(
        site=m.site,
        eigenvalues=values.clamp_min(0.0).cpu().numpy(),
        n=m.sample.count,
        n_eff=None if share is None else share * m.sample.count,
        directions=directions.cpu(),
        null_eigenvalues=np.stack(null) if null else None,
        activated=activated,
        weights=weights,
    )


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def _null(moments: Moments, effect: Tensor | None, partner: Tensor | None, blend: float) -> np.ndarray:
    """Return the eigenvalues (heads, d) of a sign-flipped replicate, weighted as the sample is."""
    matrix = as_blocks(moments, False)
    if partner is not None:
        matrix = weighted_matrix(matrix, partner, 0.0)
    elif effect is not None:
        matrix = weighted_matrix(matrix, effect, blend)
    return eigenvalues_of(matrix)
