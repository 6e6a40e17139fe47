"""What other tools make of the same models, for comparison: Optimum's int8, and OpenVINO with NNCF's int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feed = Mapping[str, Any]


def optimum_int8(source: Path, target: Path) -> None:
    """Write what Optimum 2.3's ORTQuantizer makes of a file with AutoQuantizationConfig.avx512_vnni(is_static=False).

    That is onnxruntime's dynamic quantiser on all operators that it knows, int8 weights per channel, no reduce_range.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    del model.graph.value_info[:]  # the quantiser fails on that of initialisers
    options: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": False, "MatMulConstBOnly": False}
    options |= {"EnableSubgraph": False, "DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(model, str(target), per_channel=True, weight_type=QuantType.QInt8, extra_options=options)


def nncf_int8(source: Path, target: Path, calibration: Sequence[Feed]) -> None:
    """Write the OpenVINO model (.xml) that NNCF's post-training quantisation for transformers makes of a file."""
    import nncf
    import openvino

    data = nncf.Dataset([{name: np.asarray(value) for name, value in batch.items()} for batch in calibration])
    model = openvino.Core().read_model(str(source))
    openvino.save_model(nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER), str(target))


def openvino_runner(path: Path, threads: int) -> Callable[[Feed], Any]:
    """Return what runs a file in OpenVINO on the processor, in fp32 where the processor knows bf16 too."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request, names = compiled.create_infer_request(), {item.any_name for item in compiled.inputs}
    return lambda feed: request.infer({name: np.asarray(value) for name, value in feed.items() if name in names})
