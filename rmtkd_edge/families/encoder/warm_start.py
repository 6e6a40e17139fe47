"""Warm start: the narrowed encoder that keeps most of what the teacher knew, in closed form.

Teacher and student walk through the layers together on the calibration batches. Every consumer is decoded from the
student's *own* input by least squares, every producer of the stream is fitted to the teacher's projected residual sum
minus what the student's stream already holds (so errors are corrected, not accumulated), every norm gets its scale and
shift, and query/key pairs are cut by the singular values of their bilinear form. Tokens are weighted by their effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rmtkd_edge.families.base import ranks_from
from rmtkd_edge.families.encoder.fold import narrow_like
from rmtkd_edge.families.encoder.low_rank import best_query_key
from rmtkd_edge.families.encoder.module import Embeddings, Encoder, EncoderLayer
from rmtkd_edge.families.encoder.norm_fit import NormFit
from rmtkd_edge.families.encoder.teacher_states import TeacherStates, padded
from rmtkd_edge.families.encoder.tokens import TokenWeights
from rmtkd_edge.families.layers import ProjectedLinear, copy_fitting
from rmtkd_edge.spectral import CrossMoments

Batch = Mapping[str, Tensor]


@dataclass
class Walk:
    """One calibration batch on its way: the teacher's valid tokens (n, d), the student's state (B, T, k)."""

    mask: Tensor
    teacher: Tensor
    student: Tensor
    weights: list[Tensor] | None  # of tokens (B, T), by depth

    def rows(self, x: Tensor) -> Tensor:
        """Return the valid tokens of (B, T, d) as rows."""
        return x[self.mask]

    def weight(self, depth: int) -> Tensor | None:
        """Return the weights (n,) of the valid tokens at a depth of the stream."""
        return None if self.weights is None else self.weights[depth][self.mask]


@dataclass(frozen=True)
class Cut:
    """What a warm start is about: projections by site, the stream's one as float64 and as the weights are, the ridge.

    `stream64` is the identity where the stream is not cut.
    """

    projections: Mapping[str, Tensor]
    stream64: Tensor
    stream: Tensor
    ridge: float
    token_weights: TokenWeights | None


@torch.no_grad()
def warm_start(
    states: TeacherStates,
    projections: Mapping[str, Tensor],
    *,
    ridge: float,
    weights: TokenWeights | None = None,
) -> Encoder:
    """Return the folded narrow encoder for projections by site (block-diagonal over heads; sites left out stay wide).

    Args:
        states: of the folded teacher on the calibration tokens.
        weights: how much tokens count, by kind and depth (None: all the same).
    """
    teacher = states.teacher
    student = narrow_like(teacher, ranks_from(teacher.spec, projections)).eval()
    copy_fitting(teacher, student)
    word = teacher.embeddings.word.weight
    p = projections.get("stream")
    p = torch.eye(teacher.spec.width, dtype=torch.float64) if p is None else p.double()
    cut = Cut(projections, p, p.to(word.device, word.dtype), ridge, weights)
    new_table = "embedding" in projections and student.embeddings.expand is not None
    if new_table:
        _fit_table(teacher.embeddings, student, cut, states.batches)
    walks, untouched = _embed(states, student, cut, new_table)
    sums = states.sums()
    for i, (wide, narrow) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        is_cut = any(f"layer.{i}.{kind}" in projections for kind in ("qk", "value", "ffn"))
        if untouched and not is_cut:  # nothing before this layer has changed: it stays as it is
            next(sums)
            for walk, total in zip(walks, next(sums), strict=True):
                walk.teacher = wide.norm2(total)
                walk.student = padded(walk.teacher, walk.mask)
            continue
        untouched = False
        _attention(wide, narrow, cut, walks, next(sums), i)
        _feed_forward(wide, narrow, cut, walks, next(sums), i)
    if teacher.pooler is None:
        _last_layer(teacher, student, cut, walks, untouched)
    elif not untouched or "pooler" in projections:
        _pooler(teacher, student, cut, walks)
    return student


def _fit_table(wide: Embeddings, student: Encoder, cut: Cut, batches: Sequence[Batch]) -> None:
    """Narrow the word table and fit the map after it to what the teacher's words add to the sum."""
    narrow, word = student.embeddings, wide.word.weight
    assert narrow.expand is not None, "a narrower table has a map after it"
    narrow.word.weight.copy_(word @ cut.projections["embedding"].to(word).T)
    student.to(word.device)
    fit = CrossMoments(narrow.word.weight.shape[1], narrow.expand.weight.shape[0])
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        target = wide.word_states(ids)[mask]
        weight = None if cut.token_weights is None else cut.token_weights.of(batch)[0][mask]
        fit.add(narrow.word(ids)[mask], target if wide.project is not None else target @ cut.stream.T, weight)
    _set(narrow.expand, *_solved(fit, cut.ridge))


def _embed(states: TeacherStates, student: Encoder, cut: Cut, new_table: bool) -> tuple[list[Walk], bool]:
    """Narrow the embeddings (exactly) and fit their norm; return the walks and whether nothing has changed so far."""
    wide, narrow = states.teacher.embeddings, student.embeddings
    changed = "stream" in cut.projections
    if changed:
        _project_embeddings(wide, narrow, cut, new_table)
    moved = changed or new_table
    walks, fit = [], NormFit(narrow.norm.normalized_shape[0])
    student.to(wide.word.weight.device)
    for batch, rows in zip(states.batches, states.first(), strict=True):
        ids, types = batch["input_ids"], batch.get("token_type_ids")
        counted = None if cut.token_weights is None else cut.token_weights.of(batch)
        walk = Walk(batch["attention_mask"].bool(), rows, narrow.summed(ids, types), counted)
        if moved and wide.project is None:
            fit.add(walk.rows(_plain(walk.student, narrow.norm)), rows @ cut.stream.T, walk.weight(0))
        walks.append(walk)
    if moved and wide.project is None:
        _set_norm(narrow.norm, fit)
    for walk in walks:
        walk.student = narrow.norm(walk.student)
        if narrow.project is not None:
            walk.student = narrow.project(walk.student)
    return walks, not moved


def _project_embeddings(wide: Embeddings, narrow: Embeddings, cut: Cut, new_table: bool) -> None:
    """Apply the stream's projection to whatever writes the first state of the stream."""
    if wide.project is not None and narrow.project is not None:
        weight, bias = wide.project.weight.double().cpu(), wide.project.bias.double().cpu()
        _set(narrow.project, cut.stream64 @ weight, cut.stream64 @ bias)
        return
    if narrow.expand is None:
        table = wide.word.weight if wide.expand is None else wide.expand(wide.word.weight)
        narrow.word.weight.copy_(table @ cut.stream.T)
    elif not new_table and wide.expand is not None:
        _set(narrow.expand, cut.stream @ wide.expand.weight, cut.stream @ wide.expand.bias)
    narrow.position.weight.copy_(wide.position.weight @ cut.stream.T)
    if wide.token_type is not None and narrow.token_type is not None:
        narrow.token_type.weight.copy_(wide.token_type.weight @ cut.stream.T)


def _attention(
    wide: EncoderLayer, narrow: EncoderLayer, cut: Cut, walks: Sequence[Walk], sums: Sequence[Tensor], depth: int
) -> None:
    decode = _decoder(walks, cut.ridge, depth)
    value = cut.projections.get(f"{wide.name}.value")
    weight, bias = _compose(wide.value, *decode)
    _set(narrow.value, *((weight, bias) if value is None else (value @ weight, value @ bias)))
    query, key = _compose(wide.query, *decode), _compose(wide.key, *decode)
    if f"{wide.name}.qk" in cut.projections:
        rank = narrow.query.weight.shape[0] // wide.heads
        states = (walk.rows(walk.student) for walk in walks)
        query, key = best_query_key(query, key, states, wide.heads, rank)
    _set(narrow.query, *query)
    _set(narrow.key, *key)
    fit = CrossMoments(narrow.value.weight.shape[0], len(cut.stream64))
    parts = []
    for walk, total in zip(walks, sums, strict=True):
        s = walk.student
        own = narrow.attention(narrow.query(s), narrow.key(s), narrow.value(s), walk.mask, narrow.heads, narrow.scale)
        fit.add(walk.rows(own), total @ cut.stream.T - walk.rows(s), walk.weight(depth + 1))
        parts.append((wide.norm1(total), own))
    _set(narrow.out, *_solved(fit, cut.ridge))
    _norm_step(narrow.norm1, narrow.out, walks, parts, cut.stream, depth + 1)


def _feed_forward(
    wide: EncoderLayer, narrow: EncoderLayer, cut: Cut, walks: Sequence[Walk], sums: Sequence[Tensor], depth: int
) -> None:
    weight, bias = _compose(wide.up, *_decoder(walks, cut.ridge, depth + 1))
    inner = cut.projections.get(f"{wide.name}.ffn")
    if inner is not None:
        weight, bias = inner @ weight, inner @ bias
    _set(narrow.up, weight, bias)
    fit = CrossMoments(narrow.up.weight.shape[0], len(cut.stream64))
    parts = []
    for walk, total in zip(walks, sums, strict=True):
        own = narrow.activation(narrow.up(walk.student))
        fit.add(walk.rows(own), total @ cut.stream.T - walk.rows(walk.student), walk.weight(depth + 1))
        parts.append((wide.norm2(total), own))
    _set(narrow.down, *_solved(fit, cut.ridge))
    _norm_step(narrow.norm2, narrow.down, walks, parts, cut.stream, depth + 1)


def _norm_step(
    norm: nn.LayerNorm,
    producer: ProjectedLinear,
    walks: Sequence[Walk],
    parts: Sequence[tuple[Tensor, Tensor]],
    stream: Tensor,
    depth: int,
) -> None:
    """Fit the norm after a residual add and move every walk to its output."""
    fit = NormFit(norm.normalized_shape[0])
    sums = []
    for walk, (target, own) in zip(walks, parts, strict=True):
        sums.append(walk.student + producer(own))
        fit.add(walk.rows(_plain(sums[-1], norm)), target @ stream.T, walk.weight(depth))
    _set_norm(norm, fit)
    for walk, total, (target, _) in zip(walks, sums, parts, strict=True):
        walk.teacher, walk.student = target, norm(total)


def _decoder(walks: Sequence[Walk], ridge: float, depth: int) -> tuple[Tensor, Tensor]:
    """Return R (d, k) and r (d,) with the teacher's state close to R x' + r for the student's x'."""
    fit = CrossMoments(walks[0].student.shape[-1], walks[0].teacher.shape[-1])
    for walk in walks:
        fit.add(walk.rows(walk.student), walk.teacher, walk.weight(depth))
    return _solved(fit, ridge)


def _compose(module: ProjectedLinear, decode: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = module.weight.double().cpu(), module.bias.double().cpu()
    return weight @ decode, bias + weight @ shift


def _last_layer(teacher: Encoder, student: Encoder, cut: Cut, walks: Sequence[Walk], untouched: bool) -> None:
    """Fit what reads the stream in place of a pooler: it decodes the teacher's last state first."""
    if untouched or student.classifier is None:
        return
    weight, bias = _decoder(walks, cut.ridge, len(teacher.layers))
    if teacher.classifier is not None:
        weight, bias = _compose(teacher.classifier, weight, bias)
    _set(student.classifier, weight, bias)


def _pooler(teacher: Encoder, student: Encoder, cut: Cut, walks: Sequence[Walk]) -> None:
    assert teacher.pooler is not None and teacher.classifier is not None, "a head for rows has both"
    assert student.pooler is not None and student.classifier is not None, "and its student too"
    first = [(padded(walk.teacher, walk.mask)[:, 0], walk.student[:, 0]) for walk in walks]
    fit = CrossMoments(student.spec.width, teacher.spec.width)
    for t, s in first:
        fit.add(s, t)
    weight, bias = _compose(teacher.pooler, *_solved(fit, cut.ridge))
    block = cut.projections.get("pooler")
    if block is not None:
        weight, bias = block @ weight, block @ bias
    _set(student.pooler, weight, bias)
    fit = CrossMoments(student.spec.pooler_width, len(student.spec.labels))
    for t, s in first:
        target = teacher.classifier(teacher.pooler_activation(teacher.pooler(t)))
        fit.add(student.pooler_activation(student.pooler(s)), target)
    _set(student.classifier, *_solved(fit, cut.ridge))


def _solved(fit: CrossMoments, ridge: float) -> tuple[Tensor, Tensor]:
    """Return the map over the rows of all processes."""
    fit.all_reduce()
    weight, bias = fit.solve(ridge)
    return weight.cpu(), bias.cpu()


def _plain(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return nn.functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def _set(module: ProjectedLinear, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)
    module.bias.copy_(bias)


def _set_norm(norm: nn.LayerNorm, fit: NormFit) -> None:
    gamma, beta = fit.solve()
    norm.weight.copy_(gamma)
    norm.bias.copy_(beta)
