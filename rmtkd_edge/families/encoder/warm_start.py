"""Warm start: the narrowed model that keeps most of what the teacher knew, in closed form.

Teacher and student walk through the layers side by side on the calibration batches. Every consumer is decoded from the
student's *own* input by least squares, every producer of the stream is fitted to the teacher's projected residual sum
minus what the student's stream already holds (so errors are corrected, not stacked), every norm gets its scale and
shift, and query/key pairs are cut by the singular values of their bilinear form. Tokens are weighted by their effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rmtkd_edge.families.encoder.norm_fit import NormFit
from rmtkd_edge.families.encoder.plain_fold import ranks_from
from rmtkd_edge.families.encoder.token_weights import TokenWeights
from rmtkd_edge.families.encoder.module import Encoder, EncoderLayer, ProjectedLinear, narrow_like
from rmtkd_edge.spectral import CrossMoments
from rmtkd_edge.spectral.moments import reduced

Batch = dict[str, Tensor]


@dataclass
class Walk:
    """One calibration batch on its way: teacher's and student's states (tokens, width), effect weights by depth."""

    mask: Tensor
    teacher: Tensor
    student: Tensor
    weights: list[Tensor] | None

    def rows(self, x: Tensor) -> Tensor:
        """Return the valid tokens of (B, T, d) as rows."""
        return x[self.mask]

    def weight(self, depth: int) -> Tensor | None:
        """Return the weights (n,) of the valid tokens at a depth of the stream."""
        return None if self.weights is None else self.weights[depth][self.mask]


@torch.no_grad()
def warm_start(
    teacher: Encoder,
    projections: dict[str, Tensor],
    batches: Iterable[Batch],
    *,
    ridge: float,
    weights: TokenWeights | None = None,
) -> Encoder:
    """Return the folded narrow encoder for projections by site (block-diagonal over heads; sites left out stay wide).

    `teacher` must be folded. `weights` says how much tokens count, by kind and depth (None: all alike).
    """
    teacher.eval()
    student = narrow_like(teacher, ranks_from(teacher, projections)).eval()
    own = student.state_dict()
    same = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(same, strict=False)
    p = projections.get("stream")
    p = torch.eye(teacher.spec.width, dtype=torch.float64) if p is None else p.double()
    batches = list(batches)
    new_words = "words" in projections and student.embeddings.expand is not None
    if new_words:
        _words(teacher, student, p, projections["words"], batches, weights, ridge)
    walks, untouched = _embed(teacher, student, p, batches, weights, "stream" in projections, new_words)
    for i, (wide, narrow) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        cut = any(f"layer.{i}.{kind}" in projections for kind in ("qk", "value", "ffn"))
        if untouched and not cut:  # nothing in front of this layer has changed: it stays as it is
            for walk in walks:
                walk.teacher = walk.student = wide(walk.teacher, walk.mask)
            continue
        untouched = False
        _attention(wide, narrow, p, walks, projections, ridge, i)
        _feed_forward(wide, narrow, p, walks, projections, ridge, i)
    if not untouched or "head" in projections:
        _head(teacher, student, walks, projections, ridge)
    return student


def _words(teacher, student, p, block, batches, weights, ridge) -> None:
    """Narrow the word table by `block` (e x d) and fit the map behind it to what the teacher's words add to the sum."""
    wide, narrow = teacher.embeddings, student.embeddings
    narrow.word.weight.copy_(wide.word.weight @ block.to(wide.word.weight).T)
    student.to(wide.word.weight.device)
    q = p.to(wide.word.weight) if wide.project is None else None
    fit = CrossMoments(narrow.word.weight.shape[1], narrow.expand.weight.shape[0])
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        target = wide.words(ids)[mask]
        weight = None if weights is None else weights.of(batch)[0][mask]
        fit.add(narrow.word(ids)[mask], target if q is None else target @ q.T, weight)
    _set(narrow.expand, *_solved(fit, ridge))


def _embed(teacher, student, p, batches, weights, cut, new_words) -> tuple[list[Walk], bool]:
    """Narrow the embeddings (exactly) and fit their norm; return the walks and whether nothing has changed so far."""
    wide, narrow = teacher.embeddings, student.embeddings
    device, kind = wide.word.weight.device, wide.word.weight.dtype
    q = p.to(device, kind)
    if cut and wide.project is None:
        for table in ("word", "position", "token_type"):
            if getattr(wide, table) is not None and not (table == "word" and narrow.expand is not None):
                table_weight = _table(wide) if table == "word" else getattr(wide, table).weight
                getattr(narrow, table).weight.copy_(table_weight @ q.T)
        if narrow.expand is not None and not new_words:
            _set(narrow.expand, q @ wide.expand.weight, q @ wide.expand.bias)
    elif cut:
        _set(narrow.project, p @ wide.project.weight.double().cpu(), p @ wide.project.bias.double().cpu())
    moved = cut or new_words
    walks, fit = [], NormFit(narrow.norm.normalized_shape[0])
    student.to(device)
    for batch in batches:
        ids, types = batch["input_ids"], batch.get("token_type_ids")
        counted = None if weights is None else weights.of(batch)
        walk = Walk(batch["attention_mask"].bool(), wide(ids, types), narrow.summed(ids, types), counted)
        if moved and wide.project is None:
            fit.add(walk.rows(_plain(walk.student, narrow.norm)), walk.rows(walk.teacher) @ q.T, walk.weight(0))
        walks.append(walk)
    if moved and wide.project is None:
        _set_norm(narrow.norm, fit)
    for walk in walks:
        walk.student = narrow.norm(walk.student)
        if narrow.project is not None:
            walk.student = narrow.project(walk.student)
    return walks, not moved


def _table(embeddings) -> Tensor:
    """Return the word table at the width of the sum, (vocab, width)."""
    return embeddings.word.weight if embeddings.expand is None else embeddings.expand(embeddings.word.weight)


def _attention(wide: EncoderLayer, narrow: EncoderLayer, p, walks, projections, ridge, depth) -> None:
    device, kind = wide.up.weight.device, wide.up.weight.dtype
    q = p.to(device, kind)
    decode = _decoder(walks, ridge, depth)
    for name in ("query", "key", "value"):
        module = getattr(wide, name)
        weight, bias = _compose(module, *decode)
        if name == "value":
            block = projections.get(f"{wide.name}.value")
            if block is not None:
                weight, bias = block @ weight, block @ bias
            _set(narrow.value, weight, bias)
        elif f"{wide.name}.qk" not in projections:
            _set(getattr(narrow, name), weight, bias)
    if f"{wide.name}.qk" in projections:
        _cut_query_key(wide, narrow, decode, walks)
    fit = CrossMoments(narrow.value.weight.shape[0], len(p))
    parts = []
    for walk in walks:
        t, s = walk.teacher, walk.student
        context = wide.attention(wide.query(t), wide.key(t), wide.value(t), walk.mask, wide.heads, wide.scale)
        total = t + wide.out(context)
        own = narrow.attention(narrow.query(s), narrow.key(s), narrow.value(s), walk.mask, narrow.heads, narrow.scale)
        fit.add(walk.rows(own), walk.rows(total @ q.T - s), walk.weight(depth + 1))
        parts.append((wide.norm1(total), own))
    _set(narrow.out, *_solved(fit, ridge))
    _norm_step(narrow.norm1, narrow.out, walks, parts, q, depth + 1)


def _feed_forward(wide: EncoderLayer, narrow: EncoderLayer, p, walks, projections, ridge, depth) -> None:
    device, kind = wide.up.weight.device, wide.up.weight.dtype
    q = p.to(device, kind)
    weight, bias = _compose(wide.up, *_decoder(walks, ridge, depth + 1))
    inner = projections.get(f"{wide.name}.ffn")
    if inner is not None:
        weight, bias = inner @ weight, inner @ bias
    _set(narrow.up, weight, bias)
    fit = CrossMoments(narrow.up.weight.shape[0], len(p))
    parts = []
    for walk in walks:
        total = walk.teacher + wide.down(wide.activation(wide.up(walk.teacher)))
        own = narrow.activation(narrow.up(walk.student))
        fit.add(walk.rows(own), walk.rows(total @ q.T - walk.student), walk.weight(depth + 1))
        parts.append((wide.norm2(total), own))
    _set(narrow.down, *_solved(fit, ridge))
    _norm_step(narrow.norm2, narrow.down, walks, parts, q, depth + 1)


def _norm_step(norm: nn.LayerNorm, producer: ProjectedLinear, walks, parts, q, depth) -> None:
    """Fit the norm behind a residual add and move every walk to its output."""
    fit = NormFit(norm.normalized_shape[0])
    sums = []
    for walk, (target, own) in zip(walks, parts, strict=True):
        sums.append(walk.student + producer(own))
        fit.add(walk.rows(_plain(sums[-1], norm)), walk.rows(target @ q.T), walk.weight(depth))
    _set_norm(norm, fit)
    for walk, total, (target, _) in zip(walks, sums, parts, strict=True):
        walk.teacher, walk.student = target, norm(total)


def _decoder(walks: list[Walk], ridge: float, depth: int) -> tuple[Tensor, Tensor]:
    """Return R (d, k) and r (d,) with the teacher's state close to R x' + r for the student's x'."""
    fit = CrossMoments(walks[0].student.shape[-1], walks[0].teacher.shape[-1])
    for walk in walks:
        fit.add(walk.rows(walk.student), walk.rows(walk.teacher), walk.weight(depth))
    return _solved(fit, ridge)


def _compose(module: ProjectedLinear, decode: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = module.weight.double().cpu(), module.bias.double().cpu()
    return weight @ decode, bias + weight @ shift


def _cut_query_key(wide: EncoderLayer, narrow: EncoderLayer, decode, walks) -> None:
    """Best low-rank bilinear form of every head on the student's input: q^T k = (L_q q)^T (L_k k).

    With Q^T Q and K^T K the moments of a head's queries and (centred, since softmax is blind to what all keys share)
    keys, the singular value decomposition of Q K^T in whitened coordinates is the optimum (Eckart and Young).
    """
    (wq, bq), (wk, bk) = _compose(wide.query, *decode), _compose(wide.key, *decode)
    size = wq.shape[1]
    second = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    for walk in walks:
        x = walk.rows(walk.student).double().cpu()
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        second += x.T @ x
    _, (second,) = reduced(0.0, [second])
    second = second / second[-1, -1].clone()
    mean = second[-1, :-1]
    covariance = second[:-1, :-1] - torch.outer(mean, mean)
    query = torch.cat([wq, bq[:, None]], 1)
    heads, rank = wide.heads, narrow.query.weight.shape[0] // wide.heads
    left, right = [], []
    for a, k in zip(query.chunk(heads), wk.chunk(heads), strict=True):
        root_q, inverse_q = _root(a @ second @ a.T)
        root_k, inverse_k = _root(k @ covariance @ k.T)
        u, s, vt = torch.linalg.svd(root_q @ root_k)
        scale = s[:rank].sqrt()[:, None]
        left.append(scale * (u.T[:rank] @ inverse_q))
        right.append(scale * (vt[:rank] @ inverse_k))
    lq, lk = torch.block_diag(*left), torch.block_diag(*right)
    _set(narrow.query, lq @ wq, lq @ bq)
    _set(narrow.key, lk @ wk, lk @ bk)


def _root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a moment and its pseudo-inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0).sqrt()
    inverse = torch.where(values > values.max() * 1e-6, 1 / values.clamp_min(1e-300), 0.0)
    return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T


def _head(teacher: Encoder, student: Encoder, walks, projections, ridge) -> None:
    first = [(walk.teacher[:, 0], walk.student[:, 0]) for walk in walks]
    fit = CrossMoments(student.spec.width, teacher.spec.width)
    for t, s in first:
        fit.add(s, t)
    weight, bias = _compose(teacher.head, *_solved(fit, ridge))
    block = projections.get("head")
    if block is not None:
        weight, bias = block @ weight, block @ bias
    _set(student.head, weight, bias)
    fit = CrossMoments(student.spec.head_width, len(student.spec.labels))
    for t, s in first:
        fit.add(student.head_activation(student.head(s)), teacher.classifier(teacher.head_activation(teacher.head(t))))
    _set(student.classifier, *_solved(fit, ridge))


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
