"""ResNets for images: residual convolutional classifiers (He et al. 2016) with free widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Compress, Export, Recipe
from rmtkd_edge.config.settings import Graph, Section
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, Site
from rmtkd_edge.families.defaults import FamilyDefaults
from rmtkd_edge.families.resnet import audit, config, cost
from rmtkd_edge.families.resnet.modes import DEFAULT_SITES, settle, sites_to_cut
from rmtkd_edge.families.resnet.quantise import QUANTISED
from rmtkd_edge.families.resnet.spec import ResNetSpec
from rmtkd_edge.families.torchvision_sources import name_of

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.resnet.module import ResNet
    from rmtkd_edge.families.spectrum import SiteSpectrum


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


class ResNetFamily(FamilyDefaults[ResNetSpec, "ResNet"]):
    """The family `resnet`; see families/base.py for what each member is for."""

    name = "resnet"
    modality = "image"
    default_task = "image-classification"
    curve: Literal["gemm", "conv"] = "conv"
    samples: tuple[str, ...] = ("pixel", "image")
    site_kinds: tuple[str, ...] = ("stream", "inner", "factor")
    default_sites: tuple[str, ...] = DEFAULT_SITES
    modes: tuple[str, ...] = ("width", "factor", "auto")
    shape: type[Section] = ResNetShape
    spec = ResNetSpec
    quantised = QUANTISED
    offers: tuple[str, ...] = ("stages", "features")
    feature_tap = "pooled"

    def build(self, spec: ResNetSpec) -> ResNet:
        """Return an untrained net of a shape."""
        from rmtkd_edge.families.resnet.module import ResNet

        return ResNet(spec)

    def initialise(self, model: ResNet, seed: int) -> ResNet:
        """Set random weights, in place, and return the net."""
        from rmtkd_edge.families.resnet.sources import initialise

        return initialise(model, seed)

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[ResNet, bool]:
        """Return the teacher that a recipe names, for images that `preprocessing` describes, and whether it classifies.

        Args:
            preprocessing: has `mean`, `std` and `image_size`.
        """
        from rmtkd_edge.families.resnet import sources

        shape = ResNetShape.model_validate(recipe.model.shape)
        wanted = sources.Wanted(tuple(labels), preprocessing.image_size, recipe.seed)
        net, ready = sources.build(recipe.model.source, wanted, shape)
        net.spec = replace(net.spec, mean=tuple(preprocessing.mean), std=tuple(preprocessing.std))
        return net, ready

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> ResNet | None:
        """Return a net that computes what torchvision's does; None for any other module."""
        from rmtkd_edge.families.resnet.sources import from_module

        return from_module(module, labels)

    def source_normalisation(self, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return ImageNet's mean and standard deviation for torchvision's weights, else those that the source names.

        Raises:
            UserError: neither a trained source nor the recipe says them, or they say different ones.
        """
        from rmtkd_edge.families.resnet.sources import normalisation_of
        from rmtkd_edge.families.torchvision_sources import source_normalisation

        return source_normalisation(recipe, normalisation_of)

    def describe_source(self, recipe: Recipe) -> str:
        """Return `resnet18-64` for random weights, else the last part of the source."""
        source = recipe.model.source
        if source == "scratch":
            shape = ResNetShape.model_validate(recipe.model.shape)
            groups = (shape.groups, shape.width_per_group)
            return f"resnet{shape.depth}-{shape.width}" + ("" if groups == (1, 64) else "-{}x{}".format(*groups))
        return name_of(source)

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

    def analyse(
        self, model: ResNet, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
    ) -> list[SiteSpectrum]:
        """Return the spectrum of every site of a folded net."""
        from rmtkd_edge.families.resnet.analyse import Places
        from rmtkd_edge.families.sampled import analyse_samples

        return analyse_samples(model, Places(options, model), sites, batches, effect, options)

    def settle(
        self, spec: ResNetSpec, options: Compress, latency: Callable[[ResNetSpec], float] | None, multiple: int
    ) -> Callable[[dict[str, int]], dict[str, int]]:
        """Return what leaves factors that save nothing uncut, and decides between width and factors."""
        return settle(spec, options, latency, multiple)

    def narrow(
        self,
        model: ResNet,
        projections: Mapping[str, Tensor],
        batches: Batches,
        effect: Batches,
        options: NarrowOptions,
    ) -> ResNet:
        """Return the narrowed folded net, by least squares or by folding alone; `effect` is not looked at."""
        from rmtkd_edge.families.resnet.fold import plain_fold
        from rmtkd_edge.families.resnet.warm_start import warm_start

        if options.compress.warm_start == "fold":
            return plain_fold(model, projections)
        return warm_start(model, projections, batches(), ridge=options.compress.ridge, seed=options.seed)

    def producers(self, model: ResNet) -> Mapping[str, Sequence[nn.Module]]:
        """Return, for every site that is there, the convolutions whose output lives in it."""
        from rmtkd_edge.families.resnet.fold import producers

        return producers(model)

    def predict_ms(self, spec: ResNetSpec, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one image; `sequence` is not looked at."""
        return cost.predict_ms(spec, curves)

    def file_bytes(self, spec: ResNetSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        return cost.file_bytes(spec, precision)

    def config(self, spec: ResNetSpec, task: str) -> dict[str, Any]:
        """Return config.json's own keys; `task` adds none."""
        return {**super().config(spec, task), **config.KEYS}

    def traced(self, folded: ResNet) -> nn.Module:
        """Return the net with its norms folded into the convolutions."""
        from rmtkd_edge.families.resnet.graph import FusedNet

        return FusedNet(folded)

    def expected_ops(
        self, spec: ResNetSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]
    ) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it."""
        return audit.expected_ops(spec, stage)

    def graph_values(self, model: onnx.ModelProto, spec: ResNetSpec) -> dict[str, str]:
        """Return the graph's value for each tap."""
        from rmtkd_edge.families.resnet.graph import graph_values

        return graph_values(model, spec)

    def stream_taps(self, spec: ResNetSpec) -> tuple[str, ...]:
        """Return the sum of every block, before its ReLU."""
        return tuple(
            f"layer.{i}.block.{j}.sum" for i, stage in enumerate(spec.stages, 1) for j in range(len(stage.blocks))
        )

    def stage_taps(self, spec: ResNetSpec) -> tuple[str, ...]:
        """Return what the last block of every stage gives, after its ReLU."""
        return tuple(f"layer.{i}.output" for i in range(1, len(spec.stages) + 1))

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return activations (B, C, H, W) as one row a pixel."""
        return activation.permute(0, 2, 3, 1).flatten(0, 2)

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees: of a sum or an output its stage's stream."""
        if tap.endswith(".output"):
            return f"{tap.removesuffix('.output')}.stream"
        if not tap.endswith(".sum"):
            return tap
        return "stem" if tap == "stem.sum" else f"{tap.split('.block.')[0]}.stream"


FAMILY = ResNetFamily()
