"""How fast the linear layers of an ONNX file are next to one large product, by onnxruntime's profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from rmtkd_edge.sessions import CPU, session_options

RUNS = 30
SIDE = 512  # of the product that the machine's rate is measured on: a longer one is more often interrupted
FLOAT_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}
INT8_PRODUCTS = {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger"}  # the first quantises its input too


def machine_rate(threads: int, int8: bool = False) -> float:
    """Return the operations a second (two a multiplication and addition) of one square product in onnxruntime."""
    kinds = (np.uint8, np.int8) if int8 else (np.float32, np.float32)
    x, weight = (np.random.default_rng(0).integers(0, 100, (SIDE, SIDE)).astype(kind) for kind in kinds)
    kind, output = ("MatMulInteger", TensorProto.INT32) if int8 else ("MatMul", TensorProto.FLOAT)
    node = helper.make_node(kind, ["x", "w"], ["y"], "product")
    places = [
        helper.make_tensor_value_info(name, code, [SIDE, SIDE])
        for name, code in (("x", helper.np_dtype_to_tensor_dtype(x.dtype)), ("y", output))
    ]
    graph = helper.make_graph([node], "product", places[:1], places[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(model, str(path))
        seconds, operations = products(path, {"x": x}, threads, {kind})
    return operations / seconds


def linear_rate(path: Path, feed: Mapping[str, Any], threads: int, names: set[str]) -> float:
    """Return the operations a second that the products with constant weights reach together."""
    seconds, operations = products(path, feed, threads, names)
    return operations / seconds


def products(path: Path, feed: Mapping[str, Any], threads: int, names: set[str]) -> tuple[float, int]:
    """Return the seconds (the fastest of each) and operations that products with constant weights take in a run."""
    with tempfile.TemporaryDirectory() as folder:
        options, optimised = session_options(threads), Path(folder) / "optimised.onnx"
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        options.optimized_model_filepath = str(optimised)
        session = ort.InferenceSession(str(path), options, providers=[CPU])
        for _ in range(RUNS):
            session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(str(optimised)).graph
    widths = {item.name: item.dims[0] for item in graph.initializer if len(item.dims) == 2}
    inputs = {node.name: widths[node.input[1]] for node in graph.node if names_weight(node, names, widths)}
    spent, outputs = defaultdict(list), {}
    for event in events:
        node = event["name"].removesuffix("_kernel_time")
        if event["name"].endswith("_kernel_time") and node in inputs:
            spent[node].append(event["dur"] / 1e6)
            outputs[node] = prod(next(iter(event["args"]["output_type_shape"][0].values())))
    seconds = sum(min(times) for times in spent.values())
    return seconds, sum(2 * inputs[node] * outputs[node] for node in spent)


def names_weight(node: onnx.NodeProto, names: set[str], widths: Mapping[str, int]) -> bool:
    """Return whether a node is a product with a constant matrix that is not transposed."""
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    return node.op_type in names and len(node.input) > 1 and node.input[1] in widths and not turned
