"""Static int8 for ResNets: QDQ pairs around every convolution, scales from calibration images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from rmtkd_edge.errors import DataError, RmtkdError, RunDirError

if TYPE_CHECKING:
    from torch import Tensor

QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool"]


class Images(CalibrationDataReader):
    """Hands calibration batches to onnxruntime's quantiser."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self.batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by input name, None after the last one."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch}


def quantise(
    source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], *, reduce_range: bool
) -> dict[str, Any]:
    """Write the static int8 form of an ONNX ResNet and return how it was made.

    Weights are int8 per channel, activations uint8.

    Args:
        calibration: batches with `pixel_values`, float32 (B, 3, H, W), normalised.
        reduce_range: keep weights to 7 bits, for processors whose 16-bit sums saturate (AVX2, AVX-512 without VNNI).

    Raises:
        DataError: there are no images.
        RmtkdError: a convolution stayed float.
        RunDirError: the file cannot be written.
    """
    images = [np.asarray(batch["pixel_values"], np.float32) for batch in calibration]
    if not images:
        raise DataError("there are no images to calibrate int8 on", "export.verify_rows must be 1 or more")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            clean, done = Path(folder) / "clean.onnx", Path(folder) / target.name
            quant_pre_process(str(source), str(clean), skip_symbolic_shape=True)
            quantize_static(
                str(clean),
                str(done),
                Images(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            check_convolutions(onnx.load(str(done)).graph, target.name)
            done.replace(target)
    except OSError as err:
        raise RunDirError(f"cannot write {target}: {err.strerror or err}", "free space, then export again") from err
    rows = sum(map(len, images))
    return {"format": "QDQ", "per_channel": True, "reduce_range": reduce_range, "calibration_rows": rows}


def check_convolutions(graph: onnx.GraphProto, name: str) -> None:
    """Raise RmtkdError naming the convolutions of a file whose weights are float still."""
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    left = [node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in floats]
    if left:
        raise RmtkdError(f"{name}: {len(left)} convolutions stayed float: {', '.join(left[:3])}")
