"""Files that hold nothing but standard ONNX, in the oldest file format that their opset allows."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from rmtkd_edge.errors import Finding
from rmtkd_edge.run.directory import atomic_write_bytes

STANDARD = ("", "ai.onnx")
AGAIN = "rmtkd-edge export RUN --graph fast"


def make_portable(path: Path) -> None:
    """Write a file anew with no more operator sets, and no later file format, than its operators need.

    Raises:
        Finding: it has operators that are not ONNX's own, or ONNX's checker finds a fault in it.
    """
    model = onnx.load(str(path), load_external_data=False)
    nodes = [node for node in model.graph.node if node.domain not in STANDARD]
    if others := sorted({f"{node.domain}::{node.op_type}" for node in nodes}):
        raise Finding(
            f"{path.name} is to be portable and has operators outside of standard ONNX: {', '.join(others)}",
            AGAIN,
        )
    kept = [item for item in model.opset_import if item.domain in STANDARD]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = helper.find_min_ir_version_for(kept)
    atomic_write_bytes(path, model.SerializeToString())
    try:
        onnx.checker.check_model(str(path), full_check=True)  # by its path: weights may lie next to it
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise Finding(f"{path.name}: ONNX's checker finds a fault: {err}", AGAIN) from err
