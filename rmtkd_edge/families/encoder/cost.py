"""How long an encoder would take on a device that is not here: from the width -> latency curves measured on it.

Every product is counted with the time a multiply-accumulate takes at its width, and GELU, softmax and norms with the
time an element takes. Biases and the memory between layers are in the curves' layers too, and are not counted again;
`profile` measures the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.families.encoder.spec import EncoderSpec


def predict_ms(spec: EncoderSpec, curves: Calibration, sequence: int) -> float:
    """Return the predicted latency in ms of one sequence of that many tokens through a folded encoder.

    Raises:
        ValueError: the calibration has no sizes.
    """
    rows = min(sequence, spec.max_length)
    multiplied = sum(rows * m * n * curves.ns_per_mac("gemm", sqrt(m * n)) for m, n in products(spec, rows))
    others = sum(rows * number * curves.ns_per_element.get(name, 0.0) for name, number in elements(spec, rows).items())
    return 1e-6 * (multiplied + others)


def elements(spec: EncoderSpec, tokens: int) -> dict[Literal["gelu", "softmax", "norm"], int]:
    """Return how many elements of a token go through what is no product."""
    return {
        "gelu": sum(layer.ffn for layer in spec.layers),
        "softmax": sum(layer.heads * tokens for layer in spec.layers),
        "norm": (2 * len(spec.layers) + 1) * spec.width,
    }


def products(spec: EncoderSpec, tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of every product that each token takes part in: linear layers, scores and their sums."""
    if spec.embedding_rank is not None:
        yield spec.embedding_rank, spec.embedding_size or spec.width
    if spec.embedding_size is not None:
        yield spec.embedding_size, spec.width
    for layer in spec.layers:
        qk, value = layer.heads * layer.qk, layer.heads * layer.value
        yield from ((spec.width, qk), (spec.width, qk), (spec.width, value), (value, spec.width))
        yield from ((layer.qk, tokens), (tokens, layer.value)) * layer.heads
        yield from ((spec.width, layer.ffn), (layer.ffn, spec.width))
