"""Static int8: QDQ pairs around every product, scales of the activations from calibration batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from rmtkd_edge.errors import DataError, RmtkdError
from rmtkd_edge.sessions import written_whole

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTED = ("Conv", "Gemm", "MatMul")


class Batches(CalibrationDataReader):
    """Hands calibration batches, as far as the model reads them, to onnxruntime's quantiser."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> None:
        self.left = iter([{name: np.asarray(batch[name], np.float32) for name in names} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by input name, None after the last one."""
        return next(self.left, None)


def quantise(
    source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], ops: Sequence[str], *, reduce_range: bool
) -> dict[str, Any]:
    """Write the static int8 form of an ONNX model with float inputs and return how it was made.

    Weights are int8 per channel, activations uint8.

    Args:
        ops: operators that run in int8.
        reduce_range: keep weights to 7 bits, for processors whose 16-bit sums saturate (AVX2, AVX-512 without VNNI).

    Raises:
        DataError: there are no rows.
        RmtkdError: a product stayed float.
        RunDirError: the file cannot be written.
    """
    if not calibration:
        raise DataError("there are no rows to calibrate int8 on", "export.verify_rows must be 1 or more")
    names = [item.name for item in onnx.load(str(source), load_external_data=False).graph.input]
    with written_whole(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            clean, done = Path(folder) / "clean.onnx", Path(folder) / target.name
            quant_pre_process(str(source), str(clean), skip_symbolic_shape=True)
            quantize_static(
                str(clean),
                str(done),
                Batches(calibration, names),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(ops),
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            model = onnx.load(str(done))
            _check(model.graph, ops, target.name)
            _drop_unused_opsets(model)
            onnx.save(model, str(done))
            done.replace(target)
    rows = sum(len(batch[names[0]]) for batch in calibration)
    return {"format": "QDQ", "per_channel": True, "reduce_range": reduce_range, "calibration_rows": rows}


def _drop_unused_opsets(model: onnx.ModelProto) -> None:
    """Drop the operator sets that onnxruntime's pre-processing imports for itself: not every reader knows them."""
    used = {"", *(node.domain for node in model.graph.node)}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _check(graph: onnx.GraphProto, ops: Sequence[str], name: str) -> None:
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    wanted = set(ops).intersection(WEIGHTED)
    left = [node.name for node in graph.node if node.op_type in wanted and floats & set(node.input[:2])]
    if left:
        raise RmtkdError(f"{name}: {len(left)} products stayed float: {', '.join(left[:3])}")
