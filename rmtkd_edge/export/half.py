"""Half precision: an fp32 file with its weights and arithmetic in fp16, its inputs and outputs in fp32 as before.

For GPUs, and half the size; processors without fp16 arithmetic cast back and forth. The converter clips weights that
fp16 cannot hold (above 65504), so the metric is measured on the file itself.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from rmtkd_edge.run.directory import atomic_write_bytes


def to_half(source: Path, target: Path) -> None:
    """Write the fp16 file of an fp32 one."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    OnnxModel(half).topological_sort(is_deterministic=True)  # it puts casts of inputs last, which ONNX does not allow
    atomic_write_bytes(target, half.SerializeToString())
