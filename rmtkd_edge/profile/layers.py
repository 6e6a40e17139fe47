"""One small graph a width: what a device's latency is measured on as a function of channels, or of matrix columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rmtkd_edge.hardware import CURVE_BATCH as BATCH
from rmtkd_edge.hardware import CURVE_CHANNELS as CHANNELS
from rmtkd_edge.hardware import CURVE_DEPTH as DEPTH
from rmtkd_edge.hardware import CURVE_FEATURES as FEATURES
from rmtkd_edge.hardware import CURVE_ROWS as ROWS
from rmtkd_edge.hardware import CURVE_SIDE as SIDE

OPSET, IR_VERSION = 17, 8


def conv_graph(width: int) -> onnx.ModelProto:
    """Return DEPTH 3 x 3 convolutions of `width` channels, each with its ReLU, behind a 1 x 1 one; input `images`."""
    rng = np.random.default_rng(width)
    nodes, weights, current = [], [], "images"
    for number in range(DEPTH + 1):
        inputs, kernel = (CHANNELS, 1) if number == 0 else (width, 3)
        weights.append(_weight(rng, f"w{number}", (width, inputs, kernel, kernel)))
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [current, f"w{number}"], [f"c{number}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        current = f"r{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [current], ["out"]))
    return _model(nodes, weights, "images", [BATCH, CHANNELS, SIDE, SIDE], [BATCH, width, 1, 1])


def gemm_graph(width: int) -> onnx.ModelProto:
    """Return DEPTH products with width x width matrices, each with its bias and ReLU, behind one; input `rows`."""
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


GRAPHS: dict[str, Callable[[int], onnx.ModelProto]] = {"conv": conv_graph, "gemm": gemm_graph}


def inputs() -> dict[str, NDArray[np.float32]]:
    """Return what the graphs read, float32."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.standard_normal((BATCH, CHANNELS, SIDE, SIDE), dtype=np.float32),
        "rows": rng.standard_normal((ROWS, FEATURES), dtype=np.float32),
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
