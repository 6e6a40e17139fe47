"""Latency of a ModernBERT on a device that is not here, from the curves measured on it, and the size of its files.

Local attention is counted over all tokens: the graph computes it so, and leaves out what is outside the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.settings import Graph
from rmtkd_edge.families.modernbert.spec import ModernBertSpec
from rmtkd_edge.families.token_cost import Element, bytes_of, milliseconds

# Bytes that a graph takes besides its weights: once, and for each layer (found by exporting shapes of 1 and 3 layers).
GRAPH_BYTES = {
    ("fp32", "fast"): (4_500, 7_400),
    ("fp32", "portable"): (4_900, 7_700),
    ("int8", "fast"): (4_300, 10_500),
    ("int8", "portable"): (4_600, 10_900),
}


def predict_ms(spec: ModernBertSpec, curves: Calibration, sequence: int) -> float:
    """Return the predicted latency in ms of one sequence of that many tokens through a folded model."""
    rows = min(sequence, spec.max_length)
    products = [*linear_layers(spec)]
    for layer in spec.layers:
        products += [(layer.head, rows), (rows, layer.value)] * layer.heads
    norms = 2 + sum(1 + layer.normed for layer in spec.layers)
    elements: dict[Element, int] = {
        "gelu": sum(layer.ffn for layer in spec.layers),
        "softmax": sum(layer.heads * rows for layer in spec.layers),
        "norm": norms * spec.width,
    }
    return milliseconds(curves, rows, products, elements)


def linear_layers(spec: ModernBertSpec) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of every linear layer that each token goes through."""
    for layer in spec.layers:
        qk, value = layer.heads * layer.head, layer.heads * layer.value
        yield from ((spec.width, qk), (spec.width, qk), (spec.width, value), (value, spec.width))
        yield from ((spec.width, layer.ffn), (spec.width, layer.ffn), (layer.ffn, spec.width))


def file_bytes(spec: ModernBertSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded model."""
    once, each = GRAPH_BYTES[precision, graph]
    matrices = [
        (spec.vocab, spec.width),
        *linear_layers(spec),
        (spec.width, spec.pooler_width),
        (spec.pooler_width, len(spec.labels)),
    ]
    return bytes_of(once + each * len(spec.layers), spec.count_parameters(), matrices, precision)
