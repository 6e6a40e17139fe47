"""ResNets for images: residual convolutional classifiers (He et al. 2016) with free widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rmtkd_edge.config.recipe import Compress, Export
from rmtkd_edge.config.settings import Graph, Section
from rmtkd_edge.families.images import ConvolutionalFamily, Parts, Sources
from rmtkd_edge.families.resnet import audit, cost
from rmtkd_edge.families.resnet.modes import DEFAULT_SITES, settle, sites_to_cut
from rmtkd_edge.families.resnet.spec import ResNetSpec

if TYPE_CHECKING:
    from rmtkd_edge.families.resnet.module import ResNet


class ResNetShape(Section):
    """Shape of a ResNet that is trained from random weights.

    Of torchvision's weights only `stem` is asked, of a state dict `stem` and `eps`, which its weights do not tell.
    """

    depth: Literal[18, 34, 50, 101] = 18
    width: Annotated[int, Field(ge=1, le=512)] = Field(64, description="Channels of the first stage")
    stem: Literal["cifar", "imagenet"] = Field("cifar", description="3x3 stride 1, or 7x7 stride 2 and max-pool")
    eps: Annotated[float, Field(gt=0, lt=1)] = Field(1e-5, description="Of the batch norms")
    groups: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Of bottlenecks' 3x3 convolutions: 32 of ResNeXt")
    width_per_group: Annotated[int, Field(ge=1, le=512)] = Field(
        64, description="As torchvision names it: 4 of a ResNeXt 32x4d, 128 of a wide ResNet"
    )


class ResNetFamily(ConvolutionalFamily[ResNetSpec, "ResNet"]):
    """The family `resnet`; see families/base.py for what each member is for."""

    name = "resnet"
    architecture = "ResNetForImageClassification"
    site_kinds: tuple[str, ...] = ("stream", "inner", "factor")
    default_sites: tuple[str, ...] = DEFAULT_SITES
    modes: tuple[str, ...] = ("width", "factor", "auto")
    shape: type[Section] = ResNetShape
    spec = ResNetSpec
    quantised = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool")
    feature_tap = "pooled"

    def sources(self) -> Sources:
        """Return the module of sources."""
        from rmtkd_edge.families.resnet import sources

        return sources

    def parts(self) -> Parts[ResNet]:
        """Return what a ResNet is made of."""
        from rmtkd_edge.families.resnet.analyse import Places
        from rmtkd_edge.families.resnet.fold import plain_fold, producers
        from rmtkd_edge.families.resnet.graph import FusedNet, graph_values
        from rmtkd_edge.families.resnet.layer_outputs import layer_outputs
        from rmtkd_edge.families.resnet.module import ResNet
        from rmtkd_edge.families.resnet.warm_start import warm_start

        return Parts(ResNet, producers, Places, plain_fold, layer_outputs, warm_start, FusedNet, graph_values)

    def scratch_name(self, shape: ResNetShape) -> str:
        """Return `resnet18-64`, with its groups where there are some."""
        groups = (shape.groups, shape.width_per_group)
        return f"resnet{shape.depth}-{shape.width}" + ("" if groups == (1, 64) else "-{}x{}".format(*groups))

    def never_cut(self, spec: ResNetSpec | None) -> str:
        """Say that grouped convolutions keep their widths, where there are some."""
        if spec is None or spec.groups == 1:
            return ""
        return (
            f"the inner widths keep their channels: the 3x3 convolutions are in {spec.groups} groups of one size each; "
            "the streams are cut"
        )

    def sites_to_cut(self, spec: ResNetSpec, options: Compress) -> list[str]:
        """Return the sites of the recipe's kinds, shallow to deep, and the factors where the mode asks for them."""
        return sites_to_cut(spec, options)

    def settle(
        self, spec: ResNetSpec, options: Compress, latency: Callable[[ResNetSpec], float] | None, multiple: int
    ) -> Callable[[dict[str, int]], dict[str, int]]:
        """Return what leaves factors that save nothing uncut, and decides between width and factors."""
        return settle(spec, options, latency, multiple)

    def file_bytes(self, spec: ResNetSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        return cost.file_bytes(spec, precision)

    def expected_ops(
        self, spec: ResNetSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]
    ) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it."""
        return audit.expected_ops(spec, stage)

    def stream_taps(self, spec: ResNetSpec) -> tuple[str, ...]:
        """Return the sum of every block, before its ReLU."""
        return tuple(
            f"layer.{i}.block.{j}.sum" for i, stage in enumerate(spec.stages, 1) for j in range(len(stage.blocks))
        )

    def stage_taps(self, spec: ResNetSpec) -> tuple[str, ...]:
        """Return what the last block of every stage gives, after its ReLU."""
        return tuple(f"layer.{i}.output" for i in range(1, len(spec.stages) + 1))

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees: of a sum or an output its stage's stream."""
        if tap.endswith(".output"):
            return f"{tap.removesuffix('.output')}.stream"
        if not tap.endswith(".sum"):
            return tap
        return "stem" if tap == "stem.sum" else f"{tap.split('.block.')[0]}.stream"


FAMILY = ResNetFamily()
