"""Dynamic int8 for transformers: weights and embedding tables in 8 bits, activations quantised as they come.

What is chosen and why (measured on AVX2 without VNNI, one thread, 128 tokens; tools/bench_shapes.py measures it again):
int8 weights per output channel, with 7 bits of range (`reduce_range`) where the target adds pairs of products in 16
bits: there 8-bit weights against uint8 activations saturate, with nine times the error of the logits, and no warning.
uint8 weights do not, but run 1.2x slower;
int8 in blocks (MatMulNBits) runs slower than fp32. Scales per channel cost nothing and give back what the missing bit
took, and tables with a scale per column have a third of the error of those with one scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.families.smooth import smooth
from rmtkd_edge.sessions import written_whole

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class DynamicInt8:
    """How weights become int8; activations are always uint8 with a scale per tensor and run.

    `smoothing`: how much of the range of the FFNs' inner channels moves into the weights (see smooth.py).
    """

    per_channel: bool = True
    reduce_range: bool = True
    weight: str = "int8"
    tables: bool = True
    smoothing: float = 0.85


def quantise_onnx(
    source: Path,
    target: Path,
    options: DynamicInt8 | None = None,
    *,
    calibration: Sequence[Batch] = (),
    threads: int = 1,
) -> Counter[str]:
    """Write the dynamic int8 form of an ONNX transformer and return its op counts.

    Products with constant weights (MatMul, Gemm) become MatMulInteger, embedding tables int8 with a scale per column.
    `calibration` batches serve smoothing, on `threads` threads; without any, nothing is smoothed. Raises
    RmtkdError naming the weights that stayed float, RunDirError where the file cannot be written.
    """
    options = options or DynamicInt8()
    model = onnx.load(str(source))
    drop_initialiser_types(model)
    if calibration:
        smooth(model, calibration, options.smoothing, threads=threads)
    if options.tables:
        quantise_tables(model)
    with written_whole(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            _quantise_products(model, Path(folder) / target.name, options)
            done = onnx.load(str(Path(folder) / target.name))
            _check(done, target)
            (Path(folder) / target.name).replace(target)
    return Counter(node.op_type for node in done.graph.node)


def quantise_tables(model: onnx.ModelProto) -> None:
    """Replace every float table that a Gather reads along its first axis by int8 and a DequantizeLinear per column.

    The scale of a column is max |w| / 127, its zero point 0.
    """
    graph = model.graph
    tables = float_matrices(model)
    readers = Counter(name for node in graph.node for name in node.input)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        name = node.input[0] if node.input else ""
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.op_type != "Gather" or name not in tables or axis != 0 or readers[name] > 1:
            continue
        values = numpy_helper.to_array(tables[name])
        scale = np.maximum(np.abs(values).max(axis=0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
        graph.initializer.remove(tables[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(
                    np.clip(np.rint(values / scale), -127, 127).astype(np.int8), f"{name}_quantized"
                ),
                numpy_helper.from_array(scale, f"{name}_scale"),
                numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero_point"),
            ]
        )
        output, rows = node.output[0], f"{node.output[0]}_table_rows"  # "_quantized" is the product's own name
        node.input[0], node.output[0] = f"{name}_quantized", rows
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [rows, f"{name}_scale", f"{name}_zero_point"],
                [output],
                f"{node.name}_dequantize",
                axis=-1,
            )
        )
    del graph.node[:]
    graph.node.extend(nodes)


def float_matrices(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the float matrices of a graph by name, but for the few numbers that relative positions add to scores."""
    return {
        item.name: item
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
        and len(item.dims) == 2
        and not item.name.startswith("relative.table.")
    }


def drop_initialiser_types(model: onnx.ModelProto) -> None:
    """Drop the value_info of initialisers: onnxruntime's quantiser fails on it."""
    initialisers = {item.name for item in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in initialisers]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _quantise_products(model: onnx.ModelProto, target: Path, options: DynamicInt8) -> None:
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it warns, on the root logger, that the model was not pre-processed
    try:
        quantize_dynamic(
            model,
            str(target),
            op_types_to_quantize=["MatMul"],
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            weight_type=QuantType.QInt8 if options.weight == "int8" else QuantType.QUInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    finally:
        root.setLevel(level)


def _check(model: onnx.ModelProto, path: Path) -> None:
    floats = float_matrices(model).keys()
    left = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm", "Gather") and floats & set(node.input)
    ]
    if left:
        raise RmtkdError(
            f"{path.name}: {len(left)} products kept float weights: {', '.join(left[:5])}",
            "--set export.int8=false ships fp32 alone",
        )
