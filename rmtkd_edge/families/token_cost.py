"""Latency and file size of a model of tokens from its products: what several families count alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Literal

from rmtkd_edge.config.hardware import Calibration

Element = Literal["gelu", "softmax", "norm"]
CHANNEL_BYTES = 5  # of int8: a scale and a zero point for each column of a matrix


def milliseconds(
    curves: Calibration, rows: int, products: Iterable[tuple[int, int]], elements: Mapping[Element, int]
) -> float:
    """Return the predicted latency in ms of one sequence.

    Args:
        rows: its tokens.
        products: (in, out) of every product that each token takes part in.
        elements: of a token, that go through what is no product.

    Raises:
        ValueError: the calibration has no sizes.
    """
    multiplied = sum(rows * m * n * curves.ns_per_mac("gemm", sqrt(m * n)) for m, n in products)
    others = sum(rows * number * curves.ns_per_element.get(name, 0.0) for name, number in elements.items())
    return 1e-6 * (multiplied + others)


def bytes_of(
    graph: int, parameters: int, matrices: Sequence[tuple[int, int]], precision: Literal["fp32", "int8"]
) -> int:
    """Return the size in bytes of an ONNX file.

    Args:
        graph: what it takes besides its weights.
        matrices: (rows, columns) of the tables and layers that int8 has in 8 bits.
    """
    if precision == "fp32":
        return graph + 4 * parameters
    weights = sum(rows * columns for rows, columns in matrices)
    return graph + weights + 4 * (parameters - weights) + CHANNEL_BYTES * sum(columns for _, columns in matrices)
