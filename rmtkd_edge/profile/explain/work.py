"""The work of one node: floating-point operations of products, and the bytes that it reads and writes.

Only products are counted (a multiply-accumulate is two operations), by the shapes that ran. Of any other operator the
operations are not known, and the bytes alone bound its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VIEWS = frozenset({"Shape", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})  # no element is moved
PARTS = frozenset({"Gather", "Slice"})  # read as much of their first input as they write
INTEGER = frozenset(
    {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm"}
    | {"ConvInteger", "QLinearConv"}
)
KINDS = {"float": "fp32", "float16": "fp16", "double": "fp64"}  # of products, by onnxruntime's name of their inputs
NO_PRODUCT = "only products are counted"


@dataclass(frozen=True)
class Value:
    """A tensor that a node reads or writes; `kind` is onnxruntime's name of its type."""

    shape: tuple[int, ...]
    kind: str

    @property
    def size_bytes(self) -> int:
        """Return its size; raise UnknownWorkError for a type without a fixed one."""
        try:
            one = np.dtype({"float": "float32", "double": "float64"}.get(self.kind, self.kind)).itemsize
        except TypeError as err:
            raise UnknownWorkError(f"elements of type {self.kind} have no size that is known") from err
        return math.prod(self.shape) * one


@dataclass(frozen=True)
class Node:
    """A node as it ran: the operator, its attributes, and what it read (None: an input left out) and wrote."""

    operator: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Value | None]
    outputs: Sequence[Value]

    def read(self, place: int) -> Value:
        """Return an input; raise UnknownWorkError where it is left out."""
        found = self.inputs[place] if place < len(self.inputs) else None
        if found is None:
            raise UnknownWorkError(f"{self.operator} without its input {place} is not counted")
        return found

    @property
    def written(self) -> int:
        """Return the elements of the first output."""
        return math.prod(self.outputs[0].shape)


class UnknownWorkError(Exception):
    """The operations or bytes of a node are not known; the message says why."""


def flops_of(node: Node) -> int:
    """Return the operations of a product; raise UnknownWorkError for anything else, and for forms that are not known.

    Products that run on integers count alike.
    """
    if node.operator not in PRODUCTS:
        raise UnknownWorkError(NO_PRODUCT)
    return PRODUCTS[node.operator](node)


def kind_of(node: Node) -> str:
    """Return the arithmetic of a product: `int8`, `fp32` or another of KINDS."""
    if node.operator in INTEGER:
        return "int8"
    kind = node.read(0).kind
    return KINDS.get(kind, kind)


def bytes_of(node: Node) -> int:
    """Return the bytes that a node reads and writes, each tensor once; raise UnknownWorkError where that is unknown."""
    if node.operator in VIEWS:
        return 0
    written = sum(value.size_bytes for value in node.outputs)
    if node.operator in PARTS:
        return 2 * written + sum(value.size_bytes for value in node.inputs[1:] if value is not None)
    if node.operator == "EmbedLayerNormalization":
        raise UnknownWorkError("how much of its tables is read depends on the words")
    return written + sum(value.size_bytes for value in node.inputs if value is not None)


def _inner(node: Node, transposed: str = "") -> int:
    """Return a matrix product's operations: every element of the output is a dot product along A's inner axis."""
    if node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        raise UnknownWorkError(f"{node.operator} with transposed batches is not counted")
    a = node.read(0).shape
    inner = a[-2] if transposed and node.attributes.get(transposed) else a[-1]
    return 2 * node.written * inner


def _convolution(weights: int) -> Callable[[Node], int]:
    """Return what counts a convolution whose weights are that input: (out, in / groups, height, width)."""
    return lambda node: 2 * node.written * math.prod(node.read(weights).shape[1:])


def _attention(node: Node) -> int:
    """Return the two products of MultiHeadAttention: queries with keys, and their weights with values."""
    queries, keys, values = (node.read(i).shape for i in range(3))
    if not len(queries) == len(keys) == len(values) == 3 or any(value is not None for value in node.inputs[6:]):
        raise UnknownWorkError("MultiHeadAttention is counted with separate queries, keys and values and no past ones")
    batch, rows, width = queries
    return 2 * batch * rows * keys[1] * (width + values[2])


PRODUCTS: Mapping[str, Callable[[Node], int]] = {
    **dict.fromkeys(
        ("MatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul"), _inner
    ),
    **dict.fromkeys(("FusedMatMul", "Gemm", "FusedGemm", "QGemm"), lambda node: _inner(node, "transA")),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "MultiHeadAttention": _attention,
}
