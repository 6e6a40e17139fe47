"""MobileNets for images: inverted residual blocks (Sandler et al. 2018, Howard et al. 2019) with free widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.config.settings import Fraction, Graph, Section
from rmtkd_edge.families.images import ConvolutionalFamily, Parts, Sources
from rmtkd_edge.families.mobilenet import audit, cost
from rmtkd_edge.families.mobilenet.spec import MobileNetSpec, sum_tap

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.mobilenet.module import MobileNet


class MobileNetShape(Section):
    """Shape of a MobileNet that is trained from random weights.

    Of torchvision's weights only `stem` and `dropout` are asked, of a state dict `stem`, `eps` and `dropout`.
    """

    version: Literal["v2", "v3-large", "v3-small"] = "v2"
    width: Annotated[float, Field(ge=0.1, le=4)] = Field(1.0, description="By which all widths are multiplied")
    stem: Literal["cifar", "imagenet"] = Field(
        "cifar", description="stem and first strided block of stride 1, or of 2 as torchvision has them"
    )
    eps: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Of the batch norms; unset: torchvision's (1e-5 of V2, 1e-3 of V3)"
    )
    dropout: Fraction = Field(0.2, description="Before the last layer, while the teacher is trained")


class MobileNetFamily(ConvolutionalFamily[MobileNetSpec, "MobileNet"]):
    """The family `mobilenet`; see families/base.py for what each member is for."""

    name = "mobilenet"
    architecture = "MobileNetV2ForImageClassification"
    site_kinds: tuple[str, ...] = ("stream", "inner", "squeeze", "last", "hidden")
    default_sites: tuple[str, ...] = ("stream", "inner", "squeeze", "last", "hidden")
    shape: type[Section] = MobileNetShape
    spec = MobileNetSpec
    quantised = ("Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool")
    feature_tap = "features"

    def sources(self) -> Sources:
        """Return the module of sources."""
        from rmtkd_edge.families.mobilenet import sources

        return sources

    def parts(self) -> Parts[MobileNet]:
        """Return what a MobileNet is made of."""
        from rmtkd_edge.families.mobilenet.analyse import Places
        from rmtkd_edge.families.mobilenet.fold import plain_fold, producers
        from rmtkd_edge.families.mobilenet.graph import FusedNet, graph_values
        from rmtkd_edge.families.mobilenet.layer_outputs import layer_outputs
        from rmtkd_edge.families.mobilenet.module import MobileNet
        from rmtkd_edge.families.mobilenet.warm_start import warm_start

        return Parts(MobileNet, producers, Places, plain_fold, layer_outputs, warm_start, FusedNet, graph_values)

    def scratch_name(self, shape: MobileNetShape) -> str:
        """Return `mobilenet-v2-1`."""
        return f"mobilenet-{shape.version}-{shape.width:g}"

    def file_bytes(self, spec: MobileNetSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        return cost.file_bytes(spec, precision)

    def expected_ops(
        self, spec: MobileNetSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]
    ) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it."""
        return audit.expected_ops(spec, stage)

    def comparable(self, reference: Tensor, found: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return both without axes of one pixel, which the graph's gates have."""
        return reference.flatten(1), found.flatten(1)

    def stream_taps(self, spec: MobileNetSpec) -> tuple[str, ...]:
        """Return what every block gives."""
        return tuple(sum_tap(spec, j) for j in range(len(spec.blocks)))

    def stage_taps(self, spec: MobileNetSpec) -> tuple[str, ...]:
        """Return what the last block before every change of resolution gives, and the last of all."""
        strided = [j for j, block in enumerate(spec.blocks) if block.stride > 1 and j > 0]
        return tuple(sum_tap(spec, j - 1) for j in (*strided, len(spec.blocks)))

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees: of a stream's taps the stream."""
        if tap.startswith("stream."):
            return ".".join(tap.split(".")[:2])
        return f"{tap.removesuffix('.expand')}.inner" if tap.endswith(".expand") else tap


FAMILY = MobileNetFamily()
