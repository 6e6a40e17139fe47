"""Warm start: the narrowed vision transformer that keeps most of what the teacher knew, in closed form.

Teacher and student walk through the layers together on the calibration images. Every producer of the stream is fitted
to the teacher's projected stream minus what the student's already holds, so that errors are corrected, not
accumulated; every consumer is decoded from the student's own normalised stream; query/key pairs are cut by the singular
values of their bilinear form. Positions in the sequence are weighted by their effect.

A norm before every consumer makes two things different from a stream that is normed after every sum. What consumers
read does not depend on the stream's mean or length, so that scales and shifts of the norms are absorbed by the layers
after them. And the student's norms take off the mean of its own k channels, which is one direction of the kept space:
the basis is turned so that it is the last, the least of the kept ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmtkd_edge.families.base import ranks_from
from rmtkd_edge.families.layers import ProjectedLinear, along_outputs, copy_fitting
from rmtkd_edge.families.low_rank import best_query_key
from rmtkd_edge.families.vit.fold import narrow_like
from rmtkd_edge.families.vit.module import Norm, ProjectedPatches, ProjectedTable, VisionTransformer, VitLayer
from rmtkd_edge.families.vit.walk import Walk
from rmtkd_edge.spectral import CrossMoments

MOST_ROWS = 131_072  # tokens that one least squares looks at


@dataclass(frozen=True)
class Fit:
    """What a warm start is about.

    Attributes:
        stream: the stream's projection (k, d), in the dtype of the weights; None where it is not cut.
        places: the positions in the sequence that least squares look at.
        weights: how much each of them counts, (depths, places).
    """

    projections: Mapping[str, Tensor]
    stream: Tensor | None
    ridge: float
    places: Tensor
    weights: Tensor

    def projected(self, x: Tensor) -> Tensor:
        """Return a state (..., d) of the teacher's stream in the student's channels."""
        return x if self.stream is None else x @ self.stream.T

    def solve(self, pairs: Sequence[tuple[Tensor, Tensor]], depth: int) -> tuple[Tensor, Tensor]:
        """Return the map between paired states (B, T, x) and (B, T, y), by the weights at a depth of the stream."""
        moments = CrossMoments(pairs[0][0].shape[-1], pairs[0][1].shape[-1], ridge=self.ridge)
        for x, y in pairs:
            weight = self.weights[depth].to(x).expand(len(x), -1).flatten()
            moments.add(x[:, self.places].flatten(0, 1), y[:, self.places].flatten(0, 1), weight)
        return solved(moments, self.ridge)


def turned(p: Tensor) -> Tensor:
    """Return another basis (k, d) of the rows' space, in which the mean of the channels is along the last row.

    The matrix of the orthonormal cosine transform has a constant first column, and spreads each of the other rows over
    all channels, so that none has a range of its own (which int8 would pay for).
    """
    k = len(p)
    n = torch.arange(k, dtype=p.dtype)
    cosines = torch.cos(torch.pi * (n[:, None] + 0.5) * n / k) * (2 / k) ** 0.5
    cosines[:, 0] = k**-0.5
    return cosines @ torch.cat([p[-1:], p[:-1]])


@torch.no_grad()
def warm_start(
    teacher: VisionTransformer,
    projections: Mapping[str, Tensor],
    images: Sequence[Tensor],
    weights: Tensor,
    *,
    ridge: float,
    seed: int,
) -> VisionTransformer:
    """Return the folded narrow model for projections by site (block-diagonal over heads; sites left out stay wide).

    Args:
        images: batches (B, 3, H, W) of calibration images.
        weights: how much each position in the sequence counts, (depths, positions).
    """
    teacher.eval()
    student = narrow_like(teacher, ranks_from(teacher.spec, projections)).to(next(teacher.parameters())).eval()
    copy_fitting(teacher, student)
    p = projections.get("stream")
    like = teacher.classifier.weight
    places = _places(teacher, sum(map(len, images)), seed)
    fit = Fit(projections, None if p is None else turned(p.double()).to(like), ridge, places, weights[:, places])
    if fit.stream is not None:
        _project_embeddings(teacher, student, fit.stream)
    walks = [Walk(teacher.embedded(x), student.embedded(x)) for x in images]
    changed = fit.stream is not None
    for i, (wide, narrow) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        changed = _attention(wide, narrow, walks, fit, i, changed)
        changed = _feed_forward(wide, narrow, walks, fit, i, changed)
    if changed:
        _classifier(teacher, student, walks, ridge)
    return student


def _places(teacher: VisionTransformer, images: int, seed: int) -> Tensor:
    """Return the tokens, and as many random patches as MOST_ROWS allows."""
    spec = teacher.spec
    count = min(spec.patches, max(1, MOST_ROWS // max(images, 1) - spec.tokens))
    drawn = torch.randperm(spec.patches, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.cat([torch.arange(spec.tokens), spec.tokens + drawn.sort()[0]])


def _project_embeddings(teacher: VisionTransformer, student: VisionTransformer, p: Tensor) -> None:
    """Apply the stream's projection to what its first state is the sum of."""
    for name in ("patches", "tokens", "positions"):
        wide, narrow = getattr(teacher, name), getattr(student, name)
        if isinstance(wide, ProjectedPatches | ProjectedTable):
            for part, value in wide.named_parameters(recurse=False):
                getattr(narrow, part).copy_(along_outputs(p, value))


def _attention(wide: VitLayer, narrow: VitLayer, walks: Sequence[Walk], fit: Fit, depth: int, changed: bool) -> bool:
    """Fit the attention of one layer and move the walks past it; return whether anything has changed so far."""
    value, cut = fit.projections.get(f"{wide.name}.value"), f"{wide.name}.qk" in fit.projections
    changed = changed or value is not None or cut
    sums = [walk.teacher + _attended(wide, wide.norm1(walk.teacher))[1] for walk in walks]
    if changed:
        normal = _absorbed(narrow.norm1, [walk.student for walk in walks])
        decode = fit.solve([(s, wide.norm1(w.teacher)) for s, w in zip(normal, walks, strict=True)], depth)
        weight, bias = _composed(wide.value, decode)
        _set(narrow.value, *((weight, bias) if value is None else (value @ weight, value @ bias)))
        query, key = _composed(wide.query, decode), _composed(wide.key, decode)
        if cut:
            rank = len(narrow.query.weight) // wide.heads
            rows = (s[:, fit.places].flatten(0, 1) for s in normal)
            query, key = best_query_key(query, key, rows, wide.heads, rank)
        _set(narrow.query, *query)
        _set(narrow.key, *key)
        contexts = [_attended(narrow, s)[0] for s in normal]
        _write(narrow.out, contexts, sums, walks, fit, depth + 1)
    else:
        contexts = [_attended(narrow, narrow.norm1(walk.student))[0] for walk in walks]
    _move(walks, sums, narrow.out, contexts)
    return changed


def _feed_forward(wide: VitLayer, narrow: VitLayer, walks: Sequence[Walk], fit: Fit, depth: int, changed: bool) -> bool:
    """Fit the feed-forward network of one layer and move the walks past it; return whether anything has changed."""
    inner = fit.projections.get(f"{wide.name}.ffn")
    changed = changed or inner is not None
    sums = [w.teacher + wide.down(wide.activation(wide.up(wide.norm2(w.teacher)))) for w in walks]
    if changed:
        normal = _absorbed(narrow.norm2, [walk.student for walk in walks])
        pairs = [(s, wide.norm2(walk.teacher)) for s, walk in zip(normal, walks, strict=True)]
        weight, bias = _composed(wide.up, fit.solve(pairs, depth + 1))
        _set(narrow.up, *((weight, bias) if inner is None else (inner @ weight, inner @ bias)))
        hidden = [narrow.activation(narrow.up(s)) for s in normal]
        _write(narrow.down, hidden, sums, walks, fit, depth + 1)
    else:
        hidden = [narrow.activation(narrow.up(narrow.norm2(walk.student))) for walk in walks]
    _move(walks, sums, narrow.down, hidden)
    return changed


def _attended(layer: VitLayer, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a layer's attention gives for a normed state, before and after its last map."""
    query, key, value = layer.query(normal), layer.key(normal), layer.value(normal)
    context = layer.attention(query, key, value, layer.heads, layer.scale)
    return context, layer.out(context)


def _absorbed(norm: Norm, states: Sequence[Tensor]) -> list[Tensor]:
    """Leave a norm without scale and shift, which the layers after it take over, and return what it gives."""
    norm.weight.fill_(1.0)
    norm.bias.zero_()
    return [norm(state) for state in states]


def _write(
    layer: ProjectedLinear,
    inputs: Sequence[Tensor],
    sums: Sequence[Tensor],
    walks: Sequence[Walk],
    fit: Fit,
    depth: int,
) -> None:
    """Fit a producer of the stream to what the student's stream lacks of the teacher's."""
    pairs = [(x, fit.projected(s) - w.student) for x, s, w in zip(inputs, sums, walks, strict=True)]
    _set(layer, *fit.solve(pairs, depth))


def _move(walks: Sequence[Walk], sums: Sequence[Tensor], layer: ProjectedLinear, inputs: Sequence[Tensor]) -> None:
    for walk, total, x in zip(walks, sums, inputs, strict=True):
        walk.teacher, walk.student = total, walk.student + layer(x)


def _classifier(teacher: VisionTransformer, student: VisionTransformer, walks: Sequence[Walk], ridge: float) -> None:
    normal = _absorbed(student.norm, [walk.student for walk in walks])
    moments = CrossMoments(student.spec.width, len(teacher.spec.labels))
    for s, walk in zip(normal, walks, strict=True):
        moments.add(student.pooled(s), teacher.classifier(teacher.pooled(teacher.norm(walk.teacher))))
    _set(student.classifier, *solved(moments, ridge))


def solved(moments: CrossMoments, ridge: float) -> tuple[Tensor, Tensor]:
    """Return the map over the rows of all processes, on the CPU."""
    moments.all_reduce()
    weight, bias = moments.solve(ridge)
    return weight.cpu(), bias.cpu()


def _composed(layer: ProjectedLinear, decode: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the map that a layer makes of what is decoded by R x + r."""
    weight, bias = layer.weight.double().cpu(), layer.bias.double().cpu()
    return weight @ decode[0], bias + weight @ decode[1]


def _set(layer: ProjectedLinear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
