"""Warm start: the narrowed ModernBERT that keeps most of what the teacher knew, in closed form.

Teacher and student walk through the layers together on the calibration batches. What a layer reads is decoded from the
student's own normalised stream by least squares, and every producer is fitted to the teacher's projected stream minus
what the student's stream already holds, so that errors are corrected, not accumulated. Tokens are weighted by their
effect; errors in the stream count in units of its size there, since what reads it normalises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rmtkd_edge.families.base import Batches, NarrowOptions, ranks_from
from rmtkd_edge.families.layers import ProjectedLinear, copy_fitting
from rmtkd_edge.families.modernbert.analyse import size
from rmtkd_edge.families.modernbert.fold import narrow_like, plain, plain_fold, projected_words
from rmtkd_edge.families.modernbert.module import Context, Layer, Linear, ModernBert
from rmtkd_edge.families.norm_fit import NormFit
from rmtkd_edge.families.tokens import TokenWeights, token_weights
from rmtkd_edge.spectral import CrossMoments

Batch = Mapping[str, Tensor]
WEIGHED = 4  # every fourth row of the effect batches tells what tokens count: three kinds of token need few


def narrower(
    model: ModernBert, batches: Batches, effect: Batches, options: NarrowOptions
) -> Callable[[Mapping[str, Tensor]], ModernBert]:
    """Return what narrows a folded model by its projections: by least squares, or by algebra alone."""
    if options.compress.warm_start == "fold":
        return partial(plain_fold, model)
    few = ({name: rows[::WEIGHED] for name, rows in batch.items()} for batch in effect())
    weights = token_weights(model, few, options.compress.token_blend, square=lambda s: size(s)[:, 0] ** 2)
    rows: list[Batch] = list(batches())
    return lambda projections: warm_start(model, projections, rows, options.compress.ridge, weights)


@dataclass
class Walk:
    """One calibration batch on its way: the states (B, T, d) and (B, T, k) of teacher and student."""

    mask: Tensor
    contexts: tuple[Context, Context]
    teacher: Tensor
    student: Tensor
    weights: list[Tensor] | None  # of tokens (B, T), by depth

    def rows(self, x: Tensor) -> Tensor:
        """Return the valid tokens of (B, T, d) as rows."""
        return x[self.mask]

    def weight(self, depth: int) -> Tensor | None:
        """Return the weights (n,) of the valid tokens at a depth, of what is normalised."""
        return None if self.weights is None else self.rows(self.weights[depth])

    def stream_weight(self, depth: int, state: Tensor) -> Tensor:
        """Return the weights (n,) of errors in a state of the stream."""
        inverse = 1 / size(self.rows(state))[:, 0].pow(2).clamp_min(1e-12)
        found = self.weight(depth)
        return inverse if found is None else found * inverse


@dataclass(frozen=True)
class Cut:
    """What a warm start is about: projections by site, the stream's (the identity where it is not cut), the ridge."""

    projections: Mapping[str, Tensor]
    stream: Tensor
    ridge: float

    def block(self, site: str, like: Tensor) -> Tensor | None:
        """Return the projection of a site, None where it is not cut."""
        found = self.projections.get(site)
        return None if found is None else found.to(like)


@torch.no_grad()
def warm_start(
    teacher: ModernBert,
    projections: Mapping[str, Tensor],
    batches: Iterable[Batch],
    ridge: float,
    weights: TokenWeights | None = None,
) -> ModernBert:
    """Return the folded narrow model for projections by site (block-diagonal over heads; sites left out stay wide).

    Args:
        weights: how much tokens count, by kind and depth (None: all the same).
    """
    teacher.eval()
    student = narrow_like(teacher, ranks_from(teacher.spec, projections)).eval()
    copy_fitting(teacher, student)
    like = teacher.embeddings.word.weight
    student.to(like.device)
    p = projections.get("stream")
    cut = Cut(projections, torch.eye(teacher.spec.width).to(like) if p is None else p.to(like), ridge)
    walks = _embed(teacher, student, cut, batches, weights)
    touched = "stream" in projections
    for i, (wide, narrow) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        touched = touched or any(f"layer.{i}.{kind}" in projections for kind in ("value", "ffn"))
        for step in (_attention, _feed_forward) if touched else (_same,):
            step(wide, narrow, cut, walks, i)
    if touched or "pooler" in projections:
        _pooler(teacher, student, cut, walks)
    return student


def _embed(
    teacher: ModernBert, student: ModernBert, cut: Cut, batches: Iterable[Batch], weights: TokenWeights | None
) -> list[Walk]:
    """Let every word begin where the teacher's does, projected, up to the size that the norm gives it."""
    if "stream" in cut.projections:
        student.embeddings.word.weight.copy_(projected_words(teacher, cut.stream)[0])
    walks, fit = [], NormFit(student.spec.width)
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        counted = None if weights is None else weights.of(batch)
        walks.append(Walk(mask.bool(), teacher.contexts(mask), teacher.embeddings(ids), ids, counted))
        words, target = student.embeddings.word(ids), walks[-1].teacher @ cut.stream.T
        fit.add(walks[-1].rows(plain(words, student.spec.eps)), walks[-1].rows(target), walks[-1].weight(0))
    if "stream" in cut.projections:
        _set_norm(student.embeddings.norm, fit)
    for walk in walks:
        walk.student = student.embeddings(walk.student)
    return walks


def _same(wide: Layer, narrow: Layer, cut: Cut, walks: Sequence[Walk], depth: int) -> None:
    """Go through a layer before which nothing has changed."""
    for walk in walks:
        walk.teacher = walk.student = wide(walk.teacher, walk.contexts)


def _attention(wide: Layer, narrow: Layer, cut: Cut, walks: Sequence[Walk], depth: int) -> None:
    read = _read(wide.norm1, narrow.norm1, cut, walks, depth)
    value = cut.block(f"{wide.name}.value", wide.value.weight)
    _decode(
        read, ((wide.query, narrow.query, None), (wide.key, narrow.key, None), (wide.value, narrow.value, value)), cut
    )
    after, own = [], []
    for walk, (before, inside) in zip(walks, read.pairs, strict=True):
        after.append(walk.teacher + wide.out(wide.attend(before, walk.contexts[wide.local])))
        own.append(narrow.attend(inside, walk.contexts[wide.local]))
    _produce(narrow.out, cut, walks, after, own, depth + 1)


def _feed_forward(wide: Layer, narrow: Layer, cut: Cut, walks: Sequence[Walk], depth: int) -> None:
    read = _read(wide.norm2, narrow.norm2, cut, walks, depth + 1)
    block = cut.block(f"{wide.name}.ffn", wide.up.weight)
    _decode(read, ((wide.up, narrow.up, block), (wide.gate, narrow.gate, block)), cut)
    after = [walk.teacher + wide.down(wide.inner(before)) for walk, (before, _) in zip(walks, read.pairs, strict=True)]
    _produce(narrow.down, cut, walks, after, [narrow.inner(inside) for _, inside in read.pairs], depth + 1)


@dataclass(frozen=True)
class Read:
    """What teacher and student read of the stream, batch by batch, and the moments that decode one from the other."""

    pairs: list[tuple[Tensor, Tensor]]
    fit: CrossMoments


def _read(wide: nn.Module, narrow: nn.Module, cut: Cut, walks: Sequence[Walk], depth: int) -> Read:
    """Fit the norm in front of a layer, where there is one, and gather what is read."""
    before = [wide(walk.teacher) for walk in walks]
    if isinstance(narrow, nn.LayerNorm) and "stream" in cut.projections:
        norm = NormFit(len(cut.stream))
        for walk, target in zip(walks, before, strict=True):
            own = walk.rows(plain(walk.student, narrow.eps))
            norm.add(own, walk.rows(target @ cut.stream.T), walk.weight(depth))
        _set_norm(narrow, norm)
    pairs = [(target, narrow(walk.student)) for walk, target in zip(walks, before, strict=True)]
    fit = CrossMoments(*cut.stream.shape, ridge=cut.ridge)
    for walk, (target, own) in zip(walks, pairs, strict=True):
        fit.add(walk.rows(own), walk.rows(target), walk.weight(depth))
    fit.all_reduce()
    return Read(pairs, fit)


def _decode(read: Read, layers: Iterable[tuple[Linear, Linear, Tensor | None]], cut: Cut) -> None:
    """Let the student's layers give, of what they read, the closest to what the teacher's give, projected."""
    for wide, narrow, block in layers:
        weight, shift = read.fit.solve(cut.ridge, intercept=wide.bias is not None)
        matrix = wide.weight.double().cpu()
        found = matrix @ weight.cpu()
        bias = None if wide.bias is None else wide.bias.double().cpu() + matrix @ shift.cpu()
        if block is not None:
            p = block.double().cpu()
            found, bias = p @ found, None if bias is None else p @ bias
        narrow.weight.copy_(found)
        if bias is not None:
            narrow.bias.copy_(bias)


def _produce(
    layer: Linear, cut: Cut, walks: Sequence[Walk], after: Sequence[Tensor], own: Sequence[Tensor], depth: int
) -> None:
    """Fit a producer of the stream and move every walk past it."""
    fit = CrossMoments(layer.weight.shape[1], len(cut.stream), ridge=cut.ridge)
    for walk, total, inside in zip(walks, after, own, strict=True):
        missing = walk.rows(total @ cut.stream.T - walk.student)
        fit.add(walk.rows(inside), missing, walk.stream_weight(depth, total))
    _fitted(layer, fit, cut.ridge)
    for walk, total, inside in zip(walks, after, own, strict=True):
        walk.teacher, walk.student = total, walk.student + layer(inside)


def _pooler(teacher: ModernBert, student: ModernBert, cut: Cut, walks: Sequence[Walk]) -> None:
    read = _read(teacher.norm, student.norm, cut, walks, len(teacher.layers))
    masks = [walk.mask.long() for walk in walks]
    pairs = [
        (teacher.pooled(walk.teacher, mask), student.pooled(walk.student, mask))
        for walk, mask in zip(walks, masks, strict=True)
    ]
    fit = CrossMoments(student.spec.width, teacher.spec.width)
    for target, own in pairs:
        fit.add(own, target)
    fit.all_reduce()
    block = cut.block("pooler", teacher.pooler.weight)
    _decode(Read(read.pairs, fit), ((teacher.pooler, student.pooler, block),), cut)
    norm, last = NormFit(student.spec.pooler_width), CrossMoments(student.spec.pooler_width, len(student.spec.labels))
    targets = [teacher.pooler_norm(teacher.pooler_activation(teacher.pooler(target))) for target, _ in pairs]
    inner = [student.pooler_activation(student.pooler(own)) for _, own in pairs]
    if block is not None:
        for target, own in zip(targets, inner, strict=True):
            norm.add(plain(own, student.spec.eps), target @ block.T)
        _set_norm(student.pooler_norm, norm)
    for target, own in zip(targets, inner, strict=True):
        last.add(student.pooler_norm(own), teacher.classifier(target))
    _fitted(student.classifier, last, cut.ridge)


def _fitted(layer: Linear | ProjectedLinear, fit: CrossMoments, ridge: float) -> None:
    """Set a layer to the map over the rows of all processes."""
    fit.all_reduce()
    weight, bias = fit.solve(ridge, intercept=layer.bias is not None)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)


def _set_norm(norm: nn.LayerNorm, fit: NormFit) -> None:
    gamma, beta = fit.solve(shift=norm.bias is not None)
    norm.weight.copy_(gamma)
    if norm.bias is not None:
        norm.bias.copy_(beta)
