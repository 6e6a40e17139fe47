"""Op counts that a MobileNet's shape demands: a norm or an activation that was not fused is a finding."""

from __future__ import annotations

from typing import Literal

from rmtkd_edge.families.mobilenet.spec import MobileNetSpec

Stage = Literal["emitted", "fp32", "int8"]
UNFUSED = ("BatchNormalization", "Div", "Sub", "Pad", "MatMul")  # what a norm, padding or classifier leaves


def expected_ops(spec: MobileNetSpec, stage: Stage) -> dict[str, int]:
    """Return the number of nodes by operator as emitted, or as onnxruntime runs them on a CPU in fp32 or int8."""
    convolutions = sum(1 for _ in spec.convolutions())
    linears, none = len(spec.linears()), dict.fromkeys(UNFUSED, 0)
    if stage == "emitted":
        skips = sum(block.skip for block in spec.blocks)
        return {"Conv": convolutions, "Add": skips, "Gemm": linears, **none}
    if stage == "fp32":
        return {"Conv or FusedConv": convolutions, "Gemm or FusedGemm": linears, **none}
    return {
        "QLinearConv": convolutions,
        "QGemm or Gemm": linears,
        "Conv or FusedConv or ConvInteger": 0,
        **none,
    }
