"""The closed form of a half layer of a narrowed encoder: attention or feed-forward, its residual add and its norm.

Every consumer is decoded from the student's *own* input by least squares, every producer of the stream is fitted to the
teacher's projected residual sum minus what the student's stream already holds (so errors are corrected, not
accumulated), every norm gets its scale and shift, and query/key pairs are cut by the singular values of their bilinear
form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from rmtkd_edge.families.encoder.module import EncoderLayer
from rmtkd_edge.families.encoder.teacher_states import padded
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.low_rank import Linear, best_factors, factored, output_moments, second_moment
from rmtkd_edge.families.norm_fit import NormFit
from rmtkd_edge.families.tokens import TokenWeights
from rmtkd_edge.spectral import CrossMoments


@dataclass
class Walk:
    """One calibration batch on its way: its valid tokens' states, the teacher's (n, d) and the student's (n, k).

    Attributes:
        mask: (B, T), true where a token is valid.
        weights: (n,) of the valid tokens, by depth of the stream, None where all count the same.
        relative: what distances give to the student's layers.
    """

    mask: Tensor
    teacher: Tensor
    student: Tensor
    weights: list[Tensor] | None
    relative: Tensor | None

    def weight(self, depth: int) -> Tensor | None:
        """Return the weights (n,) at a depth of the stream."""
        return None if self.weights is None else self.weights[depth]

    def attend(self, layer: EncoderLayer) -> Tensor:
        """Return what a layer's heads give the student's valid tokens, (n, heads * p)."""
        return layer.attend(padded(self.student, self.mask), self.mask, self.relative)[self.mask]


@dataclass(frozen=True)
class Cut:
    """What a warm start is about: projections by site, the stream's one as float64 and as the weights are, the ridge.

    `stream64` is the identity where the stream is not cut. `distances` decodes the teacher's embeddings of distances
    from the student's; `decoders` are those of tokens that were found, by layer.
    """

    projections: Mapping[str, Tensor]
    stream64: Tensor
    stream: Tensor
    ridge: float
    token_weights: TokenWeights | None
    distances: Linear | None = None
    decoders: dict[str, Linear] = field(default_factory=dict)


def fit_attention(
    wide: EncoderLayer, narrow: EncoderLayer, cut: Cut, walks: Sequence[Walk], sums: Sequence[Tensor], depth: int
) -> None:
    decode = decoder(walks, cut.ridge, depth, cut.stream if wide.c2p or wide.p2c else None)
    cut.decoders[wide.name] = decode
    value = cut.projections.get(f"{wide.name}.value")
    weight, bias = compose(wide.value, *decode)
    set_linear(narrow.value, *((weight, bias) if value is None else (value @ weight, value @ bias)))
    _fit_scores(wide, narrow, cut, walks, decode)
    fit = CrossMoments(narrow.value.weight.shape[0], len(cut.stream64), ridge=cut.ridge)
    parts = []
    for walk, total in zip(walks, sums, strict=True):
        own = walk.attend(narrow)
        fit.add(own, total @ cut.stream.T - walk.student, walk.weight(depth + 1))
        parts.append((wide.norm1(total), own))
    set_linear(narrow.out, *solved(fit, cut.ridge))
    _norm_step(narrow.norm1, narrow.out, walks, parts, cut.stream, depth + 1)


def _fit_scores(wide: EncoderLayer, narrow: EncoderLayer, cut: Cut, walks: Sequence[Walk], decode: Linear) -> None:
    """Set the queries and keys of tokens, and those of distances where they have layers of their own."""
    maps = {"query": compose(wide.query, *decode), "key": compose(wide.key, *decode)}
    for name, layer in (("distance_query", wide.distance_query), ("distance_key", wide.distance_key)):
        if layer is not None and cut.distances is not None:
            maps[name] = compose(layer, *cut.distances)
    if f"{wide.name}.qk" in cut.projections:
        rank = narrow.query.weight.shape[0] // wide.heads
        width = narrow.query.weight.shape[1]
        states = second_moment((walk.student for walk in walks), width)
        queries = output_moments(maps["query"], states, wide.heads)
        keys = output_moments(maps["key"], states, wide.heads, centred=True)
        pairs = [(queries, keys)]
        if wide.c2p or wide.p2c:
            embeddings = (walk.relative[0, 1:-1] for walk in walks if walk.relative is not None)
            rows = second_moment(embeddings, width)
            if wide.c2p:
                of_distances = maps.get("distance_key", maps["key"])
                pairs = [(queries, keys + output_moments(of_distances, rows, wide.heads, centred=True))]
            if wide.p2c:  # what all keys share counts here: the distance's query differs from key to key
                of_distances = maps.get("distance_query", maps["query"])
                met = output_moments(maps["key"], states, wide.heads)
                pairs.append((output_moments(of_distances, rows, wide.heads), met))
        left, right = best_factors(pairs, rank)
        maps = {name: factored(left if "query" in name else right, found) for name, found in maps.items()}
    for name, found in maps.items():
        set_linear(getattr(narrow, name), *found)


def fit_feed_forward(
    wide: EncoderLayer, narrow: EncoderLayer, cut: Cut, walks: Sequence[Walk], sums: Sequence[Tensor], depth: int
) -> None:
    weight, bias = compose(wide.up, *decoder(walks, cut.ridge, depth + 1))
    inner = cut.projections.get(f"{wide.name}.ffn")
    if inner is not None:
        weight, bias = inner @ weight, inner @ bias
    set_linear(narrow.up, weight, bias)
    fit = CrossMoments(narrow.up.weight.shape[0], len(cut.stream64), ridge=cut.ridge)
    parts = []
    for walk, total in zip(walks, sums, strict=True):
        own = narrow.activation(narrow.up(walk.student))
        fit.add(own, total @ cut.stream.T - walk.student, walk.weight(depth + 1))
        parts.append((wide.norm2(total), own))
    set_linear(narrow.down, *solved(fit, cut.ridge))
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
        fit.add(plain(sums[-1], norm), target @ stream.T, walk.weight(depth))
    set_norm(norm, fit)
    for walk, total, (target, _) in zip(walks, sums, parts, strict=True):
        walk.teacher, walk.student = target, norm(total)


def decoder(walks: Sequence[Walk], ridge: float, depth: int, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return R (d, k) and r (d,) with the teacher's state close to R x' + r for the student's x'.

    Where no token tells R it is the transpose of `prior` (k, d), the projection of the stream, else 0: embeddings of
    distances, which go through the same layers, have parts there.
    """
    fit = CrossMoments(walks[0].student.shape[-1], walks[0].teacher.shape[-1], ridge=ridge)
    for walk in walks:
        target = walk.teacher if prior is None else walk.teacher - walk.student @ prior
        fit.add(walk.student, target, walk.weight(depth))
    weight, bias = solved(fit, ridge)
    return weight if prior is None else weight + prior.T.double().cpu(), bias


def compose(module: ProjectedLinear, decode: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = module.weight.double().cpu(), module.bias.double().cpu()
    return weight @ decode, bias + weight @ shift


def solved(fit: CrossMoments, ridge: float) -> tuple[Tensor, Tensor]:
    """Return the map over the rows of all processes."""
    fit.all_reduce()
    weight, bias = fit.solve(ridge)
    return weight.cpu(), bias.cpu()


def plain(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return nn.functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def set_linear(module: ProjectedLinear, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)
    module.bias.copy_(bias)


def set_norm(norm: nn.LayerNorm, fit: NormFit) -> None:
    gamma, beta = fit.solve()
    norm.weight.copy_(gamma)
    norm.bias.copy_(beta)
