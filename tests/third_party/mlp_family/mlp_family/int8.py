"""Static int8 of the perceptron: scales from calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


class Images(CalibrationDataReader):
    """Hands calibration batches to onnxruntime's quantiser."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixel_values": batch}


def quantise(source: Path, target: Path, images: Sequence[np.ndarray], reduce_range: bool) -> dict[str, Any]:
    """Write the int8 file and return how it was made."""
    quantize_static(
        str(source),
        str(target),
        Images(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Gemm"],
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return {
        "format": "QDQ",
        "per_channel": False,
        "reduce_range": reduce_range,
        "calibration_rows": sum(map(len, images)),
    }
