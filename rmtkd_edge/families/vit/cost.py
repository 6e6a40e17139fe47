"""How long a vision transformer would take on a device that is not here, and how large its files are.

Every product is counted with the time a multiply-accumulate takes at its width, and GELU, softmax and norms with the
time an element takes, from curves measured on the device; `profile` measures the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.settings import Graph
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.vit.spec import VitSpec


def predict_ms(spec: VitSpec, curves: Calibration) -> float:
    """Return the predicted latency in ms of one image; raise ValueError where the calibration has no sizes."""
    tokens = spec.positions
    elements: dict[Literal["gelu", "softmax", "norm"], int] = {
        "gelu": sum(layer.ffn for layer in spec.layers),
        "softmax": sum(layer.heads * tokens for layer in spec.layers),
        "norm": (2 * len(spec.layers) + 1) * spec.width,
    }
    multiplied = sum(m * n * curves.ns_per_mac("gemm", sqrt(m * n)) for m, n in products(spec))
    others = sum(number * curves.ns_per_element.get(name, 0.0) for name, number in elements.items())
    return 1e-6 * tokens * (multiplied + others)


def products(spec: VitSpec) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of every product that each token takes part in: linear layers, scores and their sums."""
    yield CHANNELS * spec.patch**2, spec.width
    yield from linear_layers(spec)
    for layer in spec.layers:
        yield from ((layer.qk, spec.positions), (spec.positions, layer.value)) * layer.heads


def linear_layers(spec: VitSpec) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of every linear layer that each token goes through."""
    for layer in spec.layers:
        qk, value = layer.heads * layer.qk, layer.heads * layer.value
        yield from ((spec.width, qk), (spec.width, qk), (spec.width, value), (value, spec.width))
        yield from ((spec.width, layer.ffn), (layer.ffn, spec.width))


# Bytes that a graph takes besides its weights: once, and for each layer (found by exporting 2, 5 and 8 layers).
GRAPH_BYTES = {
    ("fp32", "fast"): (5_800, 5_500),
    ("fp32", "portable"): (4_700, 7_000),
    ("int8", "fast"): (4_400, 6_500),
    ("int8", "portable"): (3_200, 8_000),
}
CHANNEL_BYTES = 5  # of int8: a scale and a zero point for each column of a matrix


def file_bytes(spec: VitSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
    """Return the predicted size in bytes of the ONNX file of a folded model; patches and positions stay float."""
    once, each = GRAPH_BYTES[precision, graph]
    whole, parameters = once + each * len(spec.layers), spec.count_parameters()
    if precision == "fp32":
        return whole + 4 * parameters
    matrices = [*linear_layers(spec), (spec.width, len(spec.labels))]
    weights = sum(rows * columns for rows, columns in matrices)
    smoothing = sum(layer.ffn for layer in spec.layers)
    scales = CHANNEL_BYTES * sum(columns for _, columns in matrices)
    return whole + weights + 4 * (parameters - weights + smoothing) + scales
