"""Analyse: stream the activations of every site into a second moment, from which edge and directions come.

The columns are a *sample*: a few random valid, non-special tokens of every sequence (for the stream at a random depth),
because q = d / n is the resolution of the edge and must not depend on how long the sentences are.
Where sites are weighted by effect, the gradient of the logits is streamed over a few more sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.encoder.linear_moments import LinearMoments
from rmtkd_edge.families.encoder.sampling import by_depth, pick_tokens
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import Site
from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.spectral import (
    EdgeFit,
    Moments,
    effective_sample_size,
    eigh_descending,
    fit_edge,
    norm_scaled,
    sign_flipped,
    weighted_matrix,
    weighted_spectrum,
)
from rmtkd_edge.spectral.moments import reduced
from rmtkd_edge.spectral.seeded import row_contrasts

Batch = dict[str, Tensor]
MEMORY_BYTES = 1_500_000_000  # float64 moments held at a time; more sites than fit are analysed in further passes
SMALLEST_SHARE = 1e-6  # of variance, for `explained-variance`
NULL_REPEATS = 5  # sign-flipped replicates of the rule `parallel`


@dataclass
class SiteMoments:
    """What one pass leaves of a site: moments of its sample and of the output's gradient there."""

    site: Site
    sample: Moments
    effect: Moments
    partner: Moments | None = None
    null: list[Moments] | None = None
    rows: list[tuple[Tensor, Tensor]] | None = None
    linear: LinearMoments | None = None


@dataclass(frozen=True)
class SiteSpectrum:
    """Eigenvalues of a site, descending, (heads, d), and orthonormal rows (heads, up to d, d) in their order, float64.

    `behind` (d, d) and `weights` (d,) are there where channels are to be selected: the moment behind the nonlinearity,
    and the gradient's.
    """

    site: Site
    eigenvalues: np.ndarray
    n: int
    n_eff: float | None
    directions: Tensor
    null_eigenvalues: np.ndarray | None
    behind: Tensor | None
    weights: Tensor | None

    def fit(self, options: Analyse, quantile: float) -> list[EdgeFit]:
        """Return one edge fit a head at the given quantile (`explained-variance`: the share left out)."""
        fits = []
        for head in range(self.eigenvalues.shape[0]):
            null = None if self.null_eigenvalues is None else self.null_eigenvalues[:, head]
            fits.append(
                fit_edge(
                    self.eigenvalues[head],
                    self.n,
                    rule=options.rule,
                    quantile=quantile,
                    delta=options.delta,
                    n_eff=self.n_eff if options.effective_samples else None,
                    margin_level=options.margin,
                    explained=max(1.0 - quantile, SMALLEST_SHARE),
                    null_eigenvalues=null,
                )
            )
        return fits


def site_bytes(site: Site, linear: bool, inputs: int, replicates: int = 0) -> int:
    """Return the memory, in bytes, of the float64 moments of a site (`linear`: through an input of that width)."""
    null = 8 * replicates * site.heads * site.width**2
    if site.kind == "ffn" and not linear:  # channels are selected: one moment, and the gradient's diagonal
        return null + 8 * (site.width**2 + site.width)
    if linear:
        return null + 8 * (site.width**2 + 2 * (inputs + 1) ** 2 + 2 * site.width * (inputs + 1))
    return null + 8 * 3 * site.heads * site.width**2


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
    encoder: Encoder,
    sites: Sequence[Site],
    batches: Callable[[], Iterable[Batch]],
    effect_batches: Callable[[], Iterable[Batch]] | None,
    options: Analyse,
    special_ids: Sequence[int],
    seed: int,
    activated: bool = False,
) -> list[SiteSpectrum]:
    """Return the spectrum of every site, from calibration batches (and their gradients, where weighted by effect).

    `batches` and `effect_batches` are called once a pass; `special_ids` never enter a sample. With `activated` the
    channels of an FFN site are to be selected. Its edge always comes from behind the nonlinearity, unweighted.
    Raises DataError for degenerate activations (not finite, fewer than two samples).
    """
    spectra = []
    replicates = NULL_REPEATS if options.rule == "parallel" else 0
    sizes = [site_bytes(site, is_linear(site, activated), encoder.spec.width, replicates) for site in sites]
    for group in in_passes(sites, sizes):
        moments = {site.name: _empty(site, options, activated, encoder) for site in group}
        _collect(encoder, moments, batches(), options, special_ids, seed)
        if options.weighting == "effect" and effect_batches is not None:
            _collect_effect(encoder, moments, effect_batches(), seed)
        spectra += [_spectrum(m, options, seed) for m in moments.values()]
    return spectra


def _empty(site: Site, options: Analyse, activated: bool, encoder: Encoder) -> SiteMoments:
    heads = site.heads if site.heads > 1 else None
    dim = site.width * site.heads
    new = lambda: Moments(dim, heads=heads)  # noqa: E731
    partner = new() if site.kind == "qk" else None
    null = [new() for _ in range(NULL_REPEATS)] if options.rule == "parallel" else None
    rows: list[tuple[Tensor, Tensor]] | None = [] if options.effective_samples else None
    linear = LinearMoments(*encoder.layers[site.layer or 0].up.folded()) if is_linear(site, activated) else None
    effect = Moments(dim, heads=dim) if site.kind == "ffn" else new()  # of an FFN only the diagonal is used
    return SiteMoments(site, new(), effect, partner, null, rows, linear)


def is_linear(site: Site, activated: bool) -> bool:
    """Return whether a site's directions come through its narrower input: an FFN's, unless channels are selected."""
    return site.kind == "ffn" and not activated


@torch.no_grad()
def _collect(encoder, moments, batches, options, special_ids, seed) -> None:
    encoder.eval()
    depths = len(encoder.layers) + 1
    special = torch.tensor(list(special_ids), dtype=torch.long)
    sites = [m.site for m in moments.values()]
    words = any(site.kind == "words" for site in sites)
    for batch, layers in (part for whole in batches for part in by_depth(whole, sites, depths, seed)):
        taps: dict[str, Tensor] = {}
        arguments = (batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"), taps.__setitem__)
        if layers is None:
            encoder(*arguments)
        else:
            encoder.states(*arguments, layers=layers)
        valid = batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], special.to(batch["input_ids"].device))
        valid[~valid.any(1), 0] = True  # a sequence of special tokens alone is represented by its first
        picked = pick_tokens(valid.cpu().numpy(), batch["index"].cpu().numpy(), depths, options, seed)
        every = batch["attention_mask"].bool().cpu().numpy()  # special tokens have words' embeddings too
        with_special = pick_tokens(every, batch["index"].cpu().numpy(), depths, options, seed) if words else picked
        for m in moments.values():
            chosen = with_special if m.site.kind == "words" else picked
            _add(m, taps, valid, chosen, encoder, seed, options.scale_columns)


def _add(m: SiteMoments, taps, valid, picked, encoder, seed, scaled) -> None:
    name, kind = m.site.name, m.site.kind
    place = (picked.rows, picked.columns)
    blocks = picked.sequences
    if kind == "head":
        sample = taps["head"]
        blocks = blocks[np.diff(picked.rows, prepend=-1) > 0]  # one row a sequence
    elif kind == "stream":
        states = torch.stack([taps[f"stream.{i}"] for i in range(int(picked.depths.max()) + 1)])
        sample = states[(picked.depths, *place)]
    elif kind == "qk":
        queries, keys = taps[f"{name[:-3]}.q"], taps[f"{name[:-3]}.k"]
        sample = queries[place]
        assert m.partner is not None, "a query/key site keeps its keys"
        m.partner.add(keys[valid])
    elif kind == "ffn":  # the edge belongs to what the consumer reads: in front of the GELU there are d + 1 directions
        sample = encoder.layers[m.site.layer].activation(taps[name][place])
        if m.linear is not None:
            m.linear.add(taps[f"{name[: -len('.ffn')]}.mid"][place])
    else:
        sample = taps[name][place]
    sample = norm_scaled(sample) if scaled else sample
    ids = torch.from_numpy(blocks)
    m.sample.add(sample)
    if m.rows is not None:
        m.rows.append((sample.float().cpu(), ids))
    for i, null in enumerate(m.null or []):
        null.add(sign_flipped(sample, ids, seed * NULL_REPEATS + i))


def _collect_effect(encoder, moments, batches, seed) -> None:
    """Second moment of the gradient of the logits at every site: E of (v^T z)' for random v that sum to zero."""
    wanted = [m for m in moments.values() if m.site.kind != "qk"]
    if not wanted:
        return
    encoder.eval()
    for batch in batches:
        taps: dict[str, Tensor] = {}
        logits = encoder(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"), tap=taps.__setitem__)
        drawn = row_contrasts(seed + 2, batch["index"].cpu().numpy(), logits.shape[1])
        output = (logits * torch.from_numpy(drawn).to(logits)).sum()
        names = [n for m in wanted for n in _tap_names(m.site, len(encoder.layers))]
        grads = dict(zip(names, torch.autograd.grad(output, [taps[n] for n in names]), strict=True))
        valid = batch["attention_mask"].bool()
        for m in wanted:
            for name in _tap_names(m.site, len(encoder.layers)):
                grad = grads[name] if grads[name].ndim == 2 else grads[name][valid]
                if m.linear is not None:
                    m.linear.add_gradient(grad)
                else:
                    m.effect.add(grad)


def _tap_names(site: Site, layers: int) -> list[str]:
    if site.kind == "stream":
        return [f"stream.{i}" for i in range(layers + 1)]
    return [site.name]


def _spectrum(m: SiteMoments, options: Analyse, seed: int) -> SiteSpectrum:
    share = independent_share(m.rows, seed) if m.rows is not None else None
    for moment in (m.sample, m.effect, m.partner, m.linear, *(m.null or [])):
        if moment is not None:
            moment.all_reduce()
    sample = _blocks(m.sample, options.center)
    effect = _blocks(m.effect, False) if m.effect.count and m.site.kind != "ffn" else None
    # softmax over keys is blind to what all keys share: the centred key covariance is the query's effect
    partner = None if m.partner is None else _blocks(m.partner, True)
    behind = weights = None
    if m.site.kind == "ffn":
        values = torch.linalg.eigvalsh(sample).flip(-1)
        if m.linear is not None:
            directions = m.linear.spectrum(options.blend, options.center)[1][None]
        else:
            behind, directions = sample[0].cpu(), sample[:, :0]
            weights = m.effect.second().flatten().cpu() if m.effect.count else None
    elif partner is not None:
        values, _ = weighted_spectrum(sample, partner, 0.0)
        directions = eigh_descending(sample / _traces(sample) + partner / _traces(partner))[1]
    elif effect is not None:
        values, directions = weighted_spectrum(sample, effect, options.blend)
    else:
        values, directions = eigh_descending(sample)
    null = np.stack([_null(x, effect, partner, options.blend) for x in m.null]) if m.null else None
    eigenvalues = values.clamp_min(0.0).cpu().numpy()
    n_eff = None if share is None else share * m.sample.count
    return SiteSpectrum(m.site, eigenvalues, m.sample.count, n_eff, directions.cpu(), null, behind, weights)


def independent_share(rows: list[tuple[Tensor, Tensor]], seed: int) -> float:
    """Return n_eff / n, the mean over the processes, each of which looks at its own rows."""
    share, count = torch.zeros(1, dtype=torch.float64), 0.0
    if rows:
        sample, ids = torch.cat([x for x, _ in rows]), torch.cat([block for _, block in rows])
        repeated = len(torch.unique(ids)) < len(ids)
        n_eff = effective_sample_size(sample, block_ids=ids if repeated else None, seed=seed)
        share, count = torch.tensor([n_eff], dtype=torch.float64), float(len(sample))
    count, (share,) = reduced(count, [share])
    return float(share) / max(count, 1.0)


def _blocks(moments: Moments, centred: bool) -> Tensor:
    matrix = moments.covariance() if centred else moments.second()
    return matrix if matrix.ndim == 3 else matrix[None]


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def _null(moments: Moments, effect: Tensor | None, partner: Tensor | None, blend: float) -> np.ndarray:
    """Return the eigenvalues (heads, d) of a sign-flipped replicate, weighted as the sample is."""
    matrix = _blocks(moments, False)
    if partner is not None:
        matrix = weighted_matrix(matrix, partner, 0.0)
    elif effect is not None:
        matrix = weighted_matrix(matrix, effect, blend)
    return torch.linalg.eigvalsh(matrix).flip(-1).clamp_min(0.0).cpu().numpy()
