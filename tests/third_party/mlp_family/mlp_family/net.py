"""The perceptron in torch: its module, its spectra, and the closed form that starts a narrow one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.spectrum import NULL_REPEATS, SiteSpectrum, as_blocks, eigenvalues_of
from torch import Tensor, nn
from torch.nn import functional as F

from mlp_family.spec import MlpSpec, name
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, Site, Tap, ranks_from
from rmtkd_edge.spectral import CrossMoments, Moments, eigh_descending, sign_flipped, weighted_spectrum


class Mlp(nn.Module):
    """Linear layers with a ReLU between them; a cut site's fixed projection stands directly after its linear layer."""

    def __init__(self, spec: MlpSpec) -> None:
        super().__init__()
        self.spec = spec
        pairs = zip(spec.sizes[:-2], spec.widths, strict=True)
        self.layers: Sequence[Any] = nn.ModuleList(  # type: ignore[assignment]
            ProjectedLinear(before, after, spec.raw.get(name(i))) for i, (before, after) in enumerate(pairs)
        )
        self.classifier = ProjectedLinear(spec.widths[-1], len(spec.labels))

    def forward(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """Map (B, 3, H, W) to logits (B, labels); `tap` sees every hidden layer before its ReLU."""
        x = pixel_values.flatten(1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if tap is not None:
                tap(name(i), x)
            x = F.relu(x)
        return self.classifier(x)

    def set_dropout(self, p: float) -> None:
        """Do nothing: there is no dropout."""


def analyse(
    model: Mlp, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
) -> list[SiteSpectrum]:
    """Return the spectrum of every site; an image is one sample of each."""
    model.eval()
    repeats = NULL_REPEATS if options.analyse.rule == "parallel" else 0
    before, after = ({s.name: Moments(s.width) for s in sites} for _ in range(2))
    nulls = {s.name: [Moments(s.width) for _ in range(repeats)] for s in sites}
    for batch in batches():
        taps: dict[str, Tensor] = {}
        with torch.no_grad():
            model(batch["pixel_values"], tap=taps.__setitem__)
        for site in sites:
            rows = F.relu(taps[site.name])
            before[site.name].add(taps[site.name])
            after[site.name].add(rows)
            for i, null in enumerate(nulls[site.name]):
                null.add(sign_flipped(rows, batch["index"].cpu(), options.seed * repeats + i))
    weighted = effect is not None and options.analyse.weighting == "effect"
    gradients = _gradients(model, sites, effect, options) if effect is not None and weighted else {}
    for moments in [*before.values(), *after.values(), *gradients.values(), *(m for ms in nulls.values() for m in ms)]:
        moments.all_reduce()

    def spectrum(site: Site) -> SiteSpectrum:
        centred, gradient = options.analyse.center, gradients.get(site.name)
        activated = as_blocks(after[site.name], centred)
        directions, weights = torch.zeros(1, 0, site.width, dtype=torch.float64), None
        if options.select:
            weights = None if gradient is None else gradient.second().diagonal().cpu()
        else:
            rows = as_blocks(before[site.name], centred)
            blend = options.analyse.blend
            found = weighted_spectrum(rows, as_blocks(gradient, False), blend) if gradient else eigh_descending(rows)
            directions = found[1].cpu()
        null = torch.stack([as_blocks(m, False) for m in nulls[site.name]]) if repeats else None
        return SiteSpectrum(
            site=site,
            eigenvalues=eigenvalues_of(activated),
            n=after[site.name].count,
            n_eff=None,
            directions=directions,
            null_eigenvalues=None if null is None else eigenvalues_of(null),
            activated=activated[0].cpu() if options.select else None,
            weights=weights,
        )

    return [spectrum(site) for site in sites]


def _gradients(model: Mlp, sites: Sequence[Site], effect: Batches, options: AnalyseOptions) -> dict[str, Moments]:
    """Return the second moment of the gradient of the task's probe at every site."""
    moments = {s.name: Moments(s.width) for s in sites}
    for batch in effect():
        taps: dict[str, Tensor] = {}
        with torch.enable_grad():
            output = options.probe(model(batch["pixel_values"], tap=taps.__setitem__), batch)
        for site_name, grad in zip(moments, torch.autograd.grad(output, [taps[n] for n in moments]), strict=True):
            moments[site_name].add(grad)
    return moments


@torch.no_grad()
def narrow(teacher: Mlp, projections: Mapping[str, Tensor], batches: Batches, options: NarrowOptions) -> Mlp:
    """Return the narrowed model: every layer by least squares on the student's own inputs, from input to output."""
    student = Mlp(teacher.spec.with_ranks(ranks_from(teacher.spec, projections))).to(next(teacher.parameters()))
    names = [name(i) for i in range(len(teacher.layers))]
    layers = [*zip([*names, ""], [*teacher.layers, teacher.classifier], [*student.layers, student.classifier])]  # noqa: B905
    kept: Tensor | None = None
    for site, wide, own in layers:
        p = projections[site].to(wide.weight) if site in projections else None
        if options.compress.warm_start == "fold":
            weight = wide.weight if kept is None else wide.weight @ kept.T
            bias = wide.bias
            weight, bias = (weight, bias) if p is None else (p @ weight, p @ bias)
        else:
            moments = CrossMoments(own.weight.shape[1], len(own.weight))
            for x, target in _pairs(teacher, student, wide, own, batches):
                moments.add(x, target if p is None else target @ p.T)
            moments.all_reduce()
            weight, bias = moments.solve(options.compress.ridge)
        own.weight.copy_(weight)
        own.bias.copy_(bias)
        kept = p
    return student.eval()


def _pairs(teacher: Mlp, student: Mlp, wide: Any, own: Any, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the student's layer `own` reads and what the teacher's `wide` writes, batch by batch."""
    for batch in batches():
        x = batch["pixel_values"].to(wide.weight).flatten(1)
        yield _until(student, own, x), wide(_until(teacher, wide, x))


def _until(model: Mlp, stop: Any, x: Tensor) -> Tensor:
    """Return what a layer reads."""
    for layer in model.layers:
        if layer is stop:
            return x
        x = F.relu(layer(x))
    return x


def rebuild(model: Mlp, spec: MlpSpec, change: Callable[[str, Any, dict[str, Tensor]], None]) -> Mlp:
    """Return a model of another spec with this one's state, after `change` was called for every hidden layer."""
    state = model.state_dict()
    for i, layer in enumerate(model.layers):
        change(f"layers.{i}", layer, state)
    other = Mlp(spec).to(next(model.parameters()).dtype)
    other.load_state_dict({k: v.clone() for k, v in state.items()})
    return other.train(model.training)
