"""One small graph a width: what a device's latency is measured on as a function of channels, or of matrix columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rmtkd_edge.config.hardware import CURVE_BATCH as BATCH
from rmtkd_edge.config.hardware import CURVE_CHANNELS as CHANNELS
from rmtkd_edge.config.hardware import CURVE_DEPTH as DEPTH
from rmtkd_edge.config.hardware import CURVE_ELEMENTS as ELEMENTS
from rmtkd_edge.config.hardware import CURVE_FEATURES as FEATURES
from rmtkd_edge.config.hardware import CURVE_FEW_SIDE as FEW_SIDE
from rmtkd_edge.config.hardware import CURVE_ROWS as ROWS
from rmtkd_edge.config.hardware import CURVE_SIDE as SIDE

OPSET, IR_VERSION = 17, 8


def conv_graph(width: int, name: str = "images", batch: int = BATCH, side: int = SIDE) -> onnx.ModelProto:
    """Return DEPTH 3 x 3 convolutions of `width` channels, each with its ReLU, after a 1 x 1 one; reads `name`."""
    rng = np.random.default_rng(width)
    nodes, weights, current = [], [], name
    for number in range(DEPTH + 1):
        inputs, kernel = (CHANNELS, 1) if number == 0 else (width, 3)
        weights.append(_weight(rng, f"w{number}", (width, inputs, kernel, kernel)))
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [current, f"w{number}"], [f"c{number}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        current = f"r{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [current], ["out"]))
    return _model(nodes, weights, name, [batch, CHANNELS, side, side], [batch, width, 1, 1])


def few_graph(width: int) -> onnx.ModelProto:
    """Return conv_graph for one small image, where reading weights costs more than multiplying; input `image`."""
    return conv_graph(width, "image", 1, FEW_SIDE)


def gemm_graph(width: int) -> onnx.ModelProto:
    """Return DEPTH products with width x width matrices, each with its bias and ReLU, after one; input `rows`."""
    rng = np.random.default_rng(width)
    nodes, weights, current = [], [], "rows"
    for number in range(DEPTH + 1):
        shape = (FEATURES if number == 0 else width, width)
        weights += [_weight(rng, f"w{number}", shape), _weight(rng, f"b{number}", (width,))]
        nodes.append(helper.make_node("MatMul", [current, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Add", [f"m{number}", f"b{number}"], [f"a{number}"]))
        nodes.append(helper.make_node("Relu", [f"a{number}"], [f"r{number}"]))
        current = f"r{number}"
    return _model(nodes, weights, "rows", [ROWS, FEATURES], [ROWS, width])


def gelu_graph(width: int) -> onnx.ModelProto:
    """Return DEPTH GELUs in a row, as x (1 + erf(x / sqrt 2)) / 2, which onnxruntime fuses; input `elements`."""
    nodes, current = [], "elements"
    constants = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    for i in range(DEPTH):
        steps = (
            ("Div", [current, "root"]),
            ("Erf", [f"0.{i}"]),
            ("Add", [f"1.{i}", "one"]),
            ("Mul", [current, f"2.{i}"]),
            ("Mul", [f"3.{i}", "half"]),
        )
        nodes += [helper.make_node(op, read, [f"{number}.{i}"]) for number, (op, read) in enumerate(steps)]
        current = f"4.{i}"
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    return _model(nodes, weights, "elements", [ROWS, width], [ROWS, width])


def softmax_graph(width: int) -> onnx.ModelProto:
    """Return DEPTH softmaxes in a row over the last axis; input `elements`."""
    names = ["elements", *(f"s{i}" for i in range(DEPTH))]
    nodes = [helper.make_node("Softmax", [a], [b], axis=-1) for a, b in pairwise(names)]
    return _model(nodes, [], "elements", [ROWS, width], [ROWS, width])


def norm_graph(width: int) -> onnx.ModelProto:
    """Return DEPTH layer normalisations in a row; input `elements`."""
    names = ["elements", *(f"n{i}" for i in range(DEPTH))]
    nodes = [helper.make_node("LayerNormalization", [a, "scale", "shift"], [b]) for a, b in pairwise(names)]
    weights = [_weight(np.random.default_rng(0), name, (width,)) for name in ("scale", "shift")]
    return _model(nodes, weights, "elements", [ROWS, width], [ROWS, width])


OPERATORS = {"gelu": gelu_graph, "softmax": softmax_graph, "norm": norm_graph}
GRAPHS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "conv": conv_graph,
    "gemm": gemm_graph,
    "conv_few": few_graph,
    **OPERATORS,
}


def inputs() -> dict[str, NDArray[np.float32]]:
    """Return what the graphs read, float32."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.standard_normal((BATCH, CHANNELS, SIDE, SIDE), dtype=np.float32),
        "rows": rng.standard_normal((ROWS, FEATURES), dtype=np.float32),
        "image": rng.standard_normal((1, CHANNELS, FEW_SIDE, FEW_SIDE), dtype=np.float32),
        "elements": rng.standard_normal((ROWS, ELEMENTS), dtype=np.float32),
    }


def write(kind: str, width: int, path: Path) -> Path:
    """Write a graph of `GRAPHS` and return its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(GRAPHS[kind](width), str(path))
    return path


def _weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> TensorProto:
    scale = (2 / math.prod(shape[1:])) ** 0.5
    return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)


def _model(
    nodes: list[onnx.NodeProto], weights: list[TensorProto], name: str, read: list[int], written: list[int]
) -> onnx.ModelProto:
    given = helper.make_tensor_value_info(nodes[0].input[0], TensorProto.FLOAT, read)
    made = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, written)
    graph = helper.make_graph(nodes, name, [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
