"""Static int8 for convolutional nets: QDQ pairs around every convolution, scales from calibration images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from rmtkd_edge.errors import DataError, RmtkdError, RunDirError

QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool"]


class _Images(CalibrationDataReader):
    """Hands calibration batches to onnxruntime's quantiser."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self.batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch}


def quantise_convnet(
    source: Path, target: Path, calibration: Sequence[np.ndarray], *, reduce_range: bool
) -> Counter[str]:
    """Write the static int8 form of an ONNX ResNet and return its op counts.

    `calibration`: float32 (B, 3, H, W), normalised. Weights are int8 per channel, activations uint8; `reduce_range`
    keeps weights to 7 bits, for processors whose 16-bit sums saturate (AVX2 and AVX-512 without VNNI). Raises DataError
    without images, RmtkdError where a convolution stayed float, RunDirError where the file cannot be written.
    """
    if not calibration:
        raise DataError("there are no images to calibrate int8 on", "export.verify_rows must be 1 or more")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            clean, done = Path(folder) / "clean.onnx", Path(folder) / target.name
            quant_pre_process(str(source), str(clean), skip_symbolic_shape=True)
            quantize_static(
                str(clean),
                str(done),
                _Images(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            graph = onnx.load(str(done)).graph
            _check(graph, target)
            done.replace(target)
    except OSError as err:
        raise RunDirError(f"cannot write {target}: {err.strerror or err}", "free space, then export again") from err
    return Counter(node.op_type for node in graph.node)


def _check(graph: onnx.GraphProto, target: Path) -> None:
    """Raise RmtkdError naming the convolutions whose weights are float still."""
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    left = [node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in floats]
    if left:
        raise RmtkdError(f"{target.name}: {len(left)} convolutions stayed float: {', '.join(left[:3])}")
