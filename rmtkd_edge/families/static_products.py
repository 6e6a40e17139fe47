"""Static int8 for models of tokens: QDQ pairs of standard ONNX before every product, activations' scales from rows.

For runtimes other than onnxruntime, which computes the scales of dynamic int8 on the way and runs static int8 4 to 10 %
slower. OpenVINO runs it three times as fast as the dynamic operators, and the logits are as close or closer to fp32's
(docs/results.md). Only what products read is quantised: what the residual adds stays float, as onnxruntime's own
quantiser would not have it. The pooler and the classifier, which see one token, stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from rmtkd_edge.errors import DataError
from rmtkd_edge.families.dynamic_int8 import drop_initialiser_types, quantise_tables
from rmtkd_edge.families.smooth import smooth, valid_values
from rmtkd_edge.sessions import CPU, session_options, written_whole

Batch = Mapping[str, Any]
Range = tuple[float, float]
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class StaticInt8:
    """How products become int8: int8 weights with a scale per output channel, uint8 inputs with one scale.

    `smoothing`: see smooth.py. `largest_effect`: a product stays float that by itself moves the outputs by more than
    this share of their rms.
    """

    reduce_range: bool = True
    smoothing: float = 0.85
    largest_effect: float = 0.05


def quantise_static(
    source: Path,
    target: Path,
    options: StaticInt8 | None = None,
    *,
    calibration: Sequence[Batch] = (),
    threads: int = 1,
) -> dict[str, float]:
    """Write the static int8 form of an ONNX model of tokens and return the products that stayed float, with effects.

    Args:
        calibration: batches (int64 (B, T)) that give the ranges of the activations; the first one gives the effects.

    Raises:
        DataError: there are no rows.
        RunDirError: the file cannot be written.
    """
    options = options or StaticInt8()
    if not calibration:
        raise DataError("there are no rows to calibrate int8 on", "export.verify_rows must be 1 or more")
    model = onnx.load(str(source))
    drop_initialiser_types(model)
    smooth(model, calibration, options.smoothing, threads=threads)
    weights = {item.name for item in model.graph.initializer}
    products = {n.name: n.input[0] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights}
    ranges = activation_ranges(model, sorted(set(products.values())), calibration, threads)
    exact, effects = outputs(model, calibration[0], threads), {}
    for name in products:
        alone = onnx.ModelProto()
        alone.CopyFrom(model)
        put_pairs(alone, {name}, ranges, options)
        effects[name] = relative_rms(outputs(alone, calibration[0], threads) - exact, exact)
    kept = {name: effect for name, effect in effects.items() if not effect <= options.largest_effect}
    put_pairs(model, products.keys() - kept.keys(), ranges, options)
    quantise_tables(model)
    with written_whole(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(target))
    return kept


def relative_rms(difference: np.ndarray, exact: np.ndarray) -> float:
    """Return the rms of a difference as a share of that of what it is a difference from."""
    return float(np.sqrt((difference**2).mean() / max(float((exact**2).mean()), TINY)))


def activation_ranges(
    model: onnx.ModelProto, values: Sequence[str], batches: Sequence[Batch], threads: int
) -> dict[str, Range]:
    """Return the smallest and largest element, at most and at least 0, of values (B, T, d) over valid tokens."""
    found = {name: (0.0, 0.0) for name in values}
    for name, kept in valid_values(model, values, batches, threads):
        low, high = found[name]
        found[name] = min(low, float(kept.min())), max(high, float(kept.max()))
    return found


def outputs(model: onnx.ModelProto, batch: Batch, threads: int) -> np.ndarray:
    """Return a model's outputs (B, labels)."""
    session = ort.InferenceSession(model.SerializeToString(), session_options(threads), providers=[CPU])
    return session.run(None, {item.name: np.asarray(batch[item.name]) for item in session.get_inputs()})[0]


def put_pairs(
    model: onnx.ModelProto, products: AbstractSet[str], ranges: Mapping[str, Range], options: StaticInt8
) -> None:
    """Quantise the named products in place: one pair for all that read an input, and int8 weights."""
    weights = {item.name: item for item in model.graph.initializer}
    done: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in products:
            value, weight = node.input
            if value not in done:
                model.graph.initializer.extend(constants(value, input_scale(*ranges[value])))
                names = [f"{value}_scale", f"{value}_zero_point"]
                nodes.append(helper.make_node("QuantizeLinear", [value, *names], [f"{value}_quantized"]))
                nodes.append(dequantise(value))
            if weight not in done:
                values = int8_weight(numpy_helper.to_array(weights[weight]), 64 if options.reduce_range else 127)
                model.graph.initializer.remove(weights[weight])
                model.graph.initializer.extend(constants(weight, values))
                nodes.append(dequantise(weight, axis=1))
            done |= {value, weight}
            node.input[0], node.input[1] = f"{value}_dequantized", f"{weight}_dequantized"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def input_scale(low: float, high: float) -> dict[str, np.ndarray]:
    """Return the scale and the zero point of uint8 for a range that holds 0."""
    scale = max((high - low) / 255, TINY)
    return {"scale": np.array(scale, np.float32), "zero_point": np.array(round(-low / scale), np.uint8)}


def int8_weight(matrix: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Return a matrix (in, out) as int8 of -most to most, with a scale for every column."""
    scale = np.maximum(np.abs(matrix).max(axis=0) / most, TINY).astype(np.float32)
    values = np.clip(np.rint(matrix / scale), -most, most).astype(np.int8)
    return {"quantized": values, "scale": scale, "zero_point": np.zeros(len(scale), np.int8)}


def constants(name: str, values: Mapping[str, np.ndarray]) -> list[onnx.TensorProto]:
    """Return initialisers `NAME_PART`."""
    return [numpy_helper.from_array(value, f"{name}_{part}") for part, value in values.items()]


def dequantise(name: str, axis: int | None = None) -> onnx.NodeProto:
    """Return the node that makes `NAME_dequantized` of `NAME_quantized`."""
    inputs = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], axis=axis)
