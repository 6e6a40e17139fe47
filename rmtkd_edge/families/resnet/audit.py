"""Op counts that a ResNet's shape demands: a norm or an activation that was not fused is a finding, not a slow file."""

from __future__ import annotations

from typing import Literal

from rmtkd_edge.families.resnet.spec import ResNetSpec

Stage = Literal["emitted", "fp32", "int8"]
UNFUSED = ("BatchNormalization", "Mul", "Div", "Sub", "Pad", "MatMul")  # what a norm, padding or classifier leaves


def expected_ops(spec: ResNetSpec, stage: Stage) -> dict[str, int]:
    """Return the number of nodes by operator as emitted, or as onnxruntime runs them on a CPU in fp32 or int8.

    In fp32 onnxruntime fuses a sum and its ReLU into the convolution where it has blocked kernels for the widths, which
    depends on the processor: both are left, or neither.
    """
    convolutions = sum(1 for _ in spec.convolutions())
    sums = sum(len(stage.blocks) for stage in spec.stages)
    pools = {"MaxPool or NhwcMaxPool or QLinearMaxPool": int(spec.stem == "imagenet")}
    pools |= {"ReduceMean or GlobalAveragePool or QLinearGlobalAveragePool": 1}
    none = dict.fromkeys(UNFUSED, 0)
    if stage == "emitted":
        relus = 1 + sum(len(block.inner) + 1 for stage_ in spec.stages for block in stage_.blocks)
        return {"Conv": convolutions, "Add": sums, "Relu": relus, "Gemm": 1, **pools, **none}
    if stage == "fp32":
        return {"Conv or FusedConv": convolutions, "Gemm or FusedGemm": 1, "Relu less Add": 0, **pools, **none}
    return {
        "QLinearConv": convolutions,
        "QLinearAdd": sums,
        "QGemm or Gemm": 1,
        "Conv or FusedConv or ConvInteger": 0,
        "Add": 0,
        "Relu": 1,  # of the last sum, which the mean reads in float
        **pools,
        **none,
    }
