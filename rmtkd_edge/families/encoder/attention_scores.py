"""Attention scores from what a pass shows, for methods that match them; export and training never form them alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from rmtkd_edge.families.encoder.distances import distance_scores, per_head
from rmtkd_edge.families.encoder.spec import EncoderSpec, tap_of


def attention_taps(spec: EncoderSpec) -> tuple[tuple[str, ...], ...]:
    """Return the taps of every layer, pass by pass, that its scores come from."""
    distances, shared = spec.disentangled, ("relative",) if spec.relative_positions else ()
    parts = ["q", "k"]
    if distances is not None:
        parts += ["distance.k"] * distances.c2p + ["distance.q"] * distances.p2c
    passes, layers = range(spec.repeats), range(len(spec.layers))
    return tuple((*(tap_of(f"layer.{i}.{x}", n) for x in parts), *shared) for n in passes for i in layers)


def attention_scores(spec: EncoderSpec, layer: int, taps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Return a layer's scores (B, heads, T, T) before the softmax, less 10,000 for padded keys, as in BERT."""
    shape, names = spec.layers[layer % len(spec.layers)], attention_taps(spec)[layer]
    found = {re.sub(r"^.*layer\.\d+\.", "", name): taps[name].float() for name in names}
    q, k = found["q"], found["k"]
    scores = shape.scale * per_head(q, shape.heads) @ per_head(k, shape.heads).mT
    if spec.terms > 1:
        of_distances = (found.get("distance.k"), found.get("distance.q"))
        scores = scores + distance_scores(q, k, *of_distances, shape.heads, shape.scale)
    padded = 1 - batch["attention_mask"][:, None, None, :].to(q)
    return scores + found.get("relative", 0) - 10_000 * padded
