"""How long an encoder would take on a device that is not here: from the width -> latency curves measured on it.

Every product is counted with the time a multiply-accumulate takes at its width, and GELU, softmax and norms with the
time an element takes. Biases and the memory between layers are in the curves' layers too, and are not counted again;
`profile` measures the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.settings import Graph
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.families.token_cost import Element, bytes_of, milliseconds


def predict_ms(spec: EncoderSpec, curves: Calibration, sequence: int) -> float:
    """Return the predicted latency in ms of one sequence of that many tokens through a folded encoder.

    Raises:
        ValueError: the calibration has no sizes.
    """
    rows = min(sequence, spec.max_length)
    return milliseconds(curves, rows, products(spec, rows), elements(spec, rows))


def elements(spec: EncoderSpec, tokens: int) -> dict[Element, int]:
    """Return how many elements of a token go through what is no product."""
    return {
        "gelu": spec.repeats * sum(layer.ffn for layer in spec.layers),
        "softmax": spec.repeats * sum(layer.heads * tokens for layer in spec.layers),
        "norm": (2 * spec.depth + 1) * spec.width,
    }


def products(spec: EncoderSpec, tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of every product that each token takes part in: linear layers, scores and their sums."""
    yield from linear_embeddings(spec)
    for layer in spec.layers * spec.repeats:
        yield from linear_layer(spec, layer)
        yield from ((layer.qk, tokens), (tokens, layer.value)) * layer.heads
        for _ in range(2 * (spec.terms - 1)):  # there are two distances for each token
            yield spec.width, layer.heads * layer.qk
            yield from ((layer.qk, tokens),) * layer.heads


def linear_embeddings(spec: EncoderSpec) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of the linear maps of the embeddings."""
    if spec.embedding_rank is not None:
        yield spec.embedding_rank, spec.embedding_size or spec.width
    if spec.embedding_size is not None:
        yield spec.embedding_size, spec.width


def linear_layer(spec: EncoderSpec, layer: LayerSpec) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of the linear maps of a layer."""
    qk, value = layer.heads * layer.qk, layer.heads * layer.value
    yield from ((spec.width, qk), (spec.width, qk), (spec.width, value), (value, spec.width))
    yield from ((spec.width, layer.ffn), (layer.ffn, spec.width))


def of_distances(spec: EncoderSpec) -> Iterator[tuple[int, int]]:
    """Yield (rows, columns) of the table of distances and of the layers that are theirs alone."""
    if spec.disentangled is not None:
        yield 2 * spec.disentangled.span, spec.width
        if not spec.disentangled.shared:
            for layer in spec.layers:
                yield from ((spec.width, layer.heads * layer.qk),) * (spec.terms - 1)


# Bytes that a graph takes besides its weights: once, and for each layer (found by exporting shapes of 1 and 3 layers).
GRAPH_BYTES = {
    ("fp32", "fast"): (7_700, 5_700),
    ("fp32", "portable"): (4_500, 8_400),
    ("int8", "fast"): (7_500, 7_200),
    ("int8", "portable"): (4_300, 10_100),
}
DISTANCE_BYTES = {  # more where tokens and distances look at each other, besides the list of the table's rows
    ("fp32", "fast"): (-1_600, 6_000),
    ("fp32", "portable"): (1_800, 3_600),
    ("int8", "fast"): (-2_100, 6_800),
    ("int8", "portable"): (1_300, 4_100),
}


def file_bytes(spec: EncoderSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded encoder."""
    once, each = GRAPH_BYTES[precision, graph]
    if spec.disentangled is not None:
        more = DISTANCE_BYTES[precision, graph]
        once, each = once + more[0] + 16 * spec.max_length, each + more[1]
    embedding = spec.embedding_size or spec.width
    matrices = [
        (spec.vocab, spec.embedding_rank or embedding),
        (spec.positions * spec.position_table, embedding),
        (spec.type_vocab, embedding),
        *of_distances(spec),
        *linear_embeddings(spec),
        *(shape for layer in spec.layers for shape in linear_layer(spec, layer)),
        *([(spec.width, spec.pooler_width)] if spec.head == "row" else []),
        *([spec.classifier] if spec.classifier is not None else []),
    ]
    return bytes_of(once + each * spec.depth, spec.count_parameters(), matrices, precision)
