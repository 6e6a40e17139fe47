"""Warm start: the narrowed encoder that keeps most of what the teacher knew, in closed form.

Teacher and student walk through the layers together on the calibration batches, half layer by half layer (see
half_layers.py). Tokens are weighted by their effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rmtkd_edge.families.base import ranks_from
from rmtkd_edge.families.encoder.distance_fit import closest_table, projected_table, set_table
from rmtkd_edge.families.encoder.embeddings import Embeddings
from rmtkd_edge.families.encoder.fold import narrow_like
from rmtkd_edge.families.encoder.half_layers import (
    Cut,
    Walk,
    compose,
    decoder,
    fit_attention,
    fit_feed_forward,
    plain,
    set_linear,
    set_norm,
    solved,
)
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.repeated_layers import repeated_layers
from rmtkd_edge.families.encoder.teacher_states import TeacherStates, padded
from rmtkd_edge.families.layers import copy_fitting
from rmtkd_edge.families.norm_fit import NormFit
from rmtkd_edge.families.tokens import TokenWeights
from rmtkd_edge.spectral import CrossMoments

Batch = Mapping[str, Tensor]


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
    word = states.teacher.embeddings.word.weight
    p = projections.get("stream")
    p = torch.eye(states.teacher.spec.width, dtype=torch.float64) if p is None else p.double()
    cut = Cut(projections, p, p.to(word.device, word.dtype), ridge, weights)
    student = _walked(states, cut, projected_table(states.teacher, cut))
    table = closest_table(states.teacher, cut)
    return student if table is None else _walked(states, cut, table)


def _walked(states: TeacherStates, cut: Cut, table: Tensor | None) -> Encoder:
    """Return the narrow encoder of one walk through the layers, with this table of distances."""
    teacher, projections = states.teacher, cut.projections
    student = narrow_like(teacher, ranks_from(teacher.spec, projections)).eval()
    copy_fitting(teacher, student)
    if table is not None:
        cut = replace(cut, distances=set_table(teacher, student, cut, table))
    new_table = "embedding" in projections and student.embeddings.expand is not None
    if new_table:
        _fit_table(teacher.embeddings, student, cut, states.batches)
    walks, untouched = _embed(states, student, cut, new_table)
    walk_through = repeated_layers if teacher.spec.repeats > 1 else _layers
    untouched = walk_through(states, student, cut, walks, untouched)
    if teacher.pooler is None:
        _last_layer(teacher, student, cut, walks, untouched)
    elif not untouched or "pooler" in projections:
        _pooler(teacher, student, cut, walks)
    return student


def _layers(states: TeacherStates, student: Encoder, cut: Cut, walks: Sequence[Walk], untouched: bool) -> bool:
    """Fit layer by layer, move the walks to their end, and return whether nothing has changed."""
    teacher, projections, sums = states.teacher, cut.projections, states.sums()
    for i, (wide, narrow) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        is_cut = any(f"layer.{i}.{kind}" in projections for kind in ("qk", "value", "ffn"))
        if untouched and not is_cut:  # nothing before this layer has changed: it stays as it is
            next(sums)
            for walk, total in zip(walks, next(sums), strict=True):
                walk.teacher = walk.student = wide.norm2(total)
            continue
        untouched = False
        fit_attention(wide, narrow, cut, walks, next(sums), i)
        fit_feed_forward(wide, narrow, cut, walks, next(sums), i)
    return untouched


def _fit_table(wide: Embeddings, student: Encoder, cut: Cut, batches: Sequence[Batch]) -> None:
    """Narrow the word table and fit the map after it to what the teacher's words add to the sum."""
    narrow, word = student.embeddings, wide.word.weight
    assert narrow.expand is not None, "a narrower table has a map after it"
    narrow.word.weight.copy_(word @ cut.projections["embedding"].to(word).T)
    student.to(word.device)
    fit = CrossMoments(narrow.word.weight.shape[1], narrow.expand.weight.shape[0], ridge=cut.ridge)
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        target = wide.word_states(ids)[mask]
        weight = None if cut.token_weights is None else cut.token_weights.of(batch)[0][mask]
        fit.add(narrow.word(ids)[mask], target if wide.project is not None else target @ cut.stream.T, weight)
    set_linear(narrow.expand, *solved(fit, cut.ridge))


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
        ids, types, mask = batch["input_ids"], batch.get("token_type_ids"), batch["attention_mask"].bool()
        weights = None if cut.token_weights is None else [each[mask] for each in cut.token_weights.of(batch)]
        walk = Walk(mask, rows, narrow.summed(ids, types)[mask], weights, student.distances(ids))
        if moved and wide.project is None:
            fit.add(plain(walk.student, narrow.norm), rows @ cut.stream.T, walk.weight(0))
        walks.append(walk)
    if moved and wide.project is None:
        set_norm(narrow.norm, fit)
    for walk in walks:
        walk.student = narrow.norm(walk.student)
        if narrow.project is not None:
            walk.student = narrow.project(walk.student)
    return walks, not moved


def _project_embeddings(wide: Embeddings, narrow: Embeddings, cut: Cut, new_table: bool) -> None:
    """Apply the stream's projection to whatever writes the first state of the stream."""
    if wide.project is not None and narrow.project is not None:
        weight, bias = wide.project.weight.double().cpu(), wide.project.bias.double().cpu()
        set_linear(narrow.project, cut.stream64 @ weight, cut.stream64 @ bias)
        return
    if narrow.expand is None:
        table = wide.word.weight if wide.expand is None else wide.expand(wide.word.weight)
        narrow.word.weight.copy_(table @ cut.stream.T)
    elif not new_table and wide.expand is not None:
        set_linear(narrow.expand, cut.stream @ wide.expand.weight, cut.stream @ wide.expand.bias)
    if wide.position is not None and narrow.position is not None:
        narrow.position.weight.copy_(wide.position.weight @ cut.stream.T)
    if wide.token_type is not None and narrow.token_type is not None:
        narrow.token_type.weight.copy_(wide.token_type.weight @ cut.stream.T)


def _last_layer(teacher: Encoder, student: Encoder, cut: Cut, walks: Sequence[Walk], untouched: bool) -> None:
    """Fit what reads the stream in place of a pooler: it decodes the teacher's last state first."""
    if untouched or student.classifier is None:
        return
    weight, bias = decoder(walks, cut.ridge, teacher.spec.depth)
    if teacher.classifier is not None:
        weight, bias = compose(teacher.classifier, weight, bias)
    set_linear(student.classifier, weight, bias)


def _pooler(teacher: Encoder, student: Encoder, cut: Cut, walks: Sequence[Walk]) -> None:
    assert teacher.pooler is not None and teacher.classifier is not None, "a head for rows has both"
    assert student.pooler is not None and student.classifier is not None, "and its student too"
    first = [[padded(state, walk.mask)[:, 0] for state in (walk.teacher, walk.student)] for walk in walks]
    fit = CrossMoments(student.spec.width, teacher.spec.width)
    for t, s in first:
        fit.add(s, t)
    weight, bias = compose(teacher.pooler, *solved(fit, cut.ridge))
    block = cut.projections.get("pooler")
    if block is not None:
        weight, bias = block @ weight, block @ bias
    set_linear(student.pooler, weight, bias)
    fit = CrossMoments(student.spec.pooler_width, len(student.spec.labels))
    for t, s in first:
        target = teacher.classifier(teacher.pooler_activation(teacher.pooler(t)))
        fit.add(student.pooler_activation(student.pooler(s)), target)
    set_linear(student.classifier, *solved(fit, cut.ridge))
