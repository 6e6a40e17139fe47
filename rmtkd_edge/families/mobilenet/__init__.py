"""MobileNets for images: inverted residual blocks (Sandler et al. 2018, Howard et al. 2019) with free widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Export, Recipe
from rmtkd_edge.config.settings import Fraction, Graph, Section
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, Site
from rmtkd_edge.families.defaults import FamilyDefaults
from rmtkd_edge.families.mobilenet import audit, cost
from rmtkd_edge.families.mobilenet.spec import CHANNELS, MobileNetSpec, sum_tap
from rmtkd_edge.families.torchvision_sources import name_of

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.mobilenet.module import MobileNet
    from rmtkd_edge.families.spectrum import SiteSpectrum

QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool")


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


class MobileNetFamily(FamilyDefaults[MobileNetSpec, "MobileNet"]):
    """The family `mobilenet`; see families/base.py for what each member is for."""

    name = "mobilenet"
    modality = "image"
    default_task = "image-classification"
    curve: Literal["gemm", "conv"] = "conv"
    samples: tuple[str, ...] = ("pixel", "image")
    site_kinds: tuple[str, ...] = ("stream", "inner", "squeeze", "last", "hidden")
    default_sites: tuple[str, ...] = ("stream", "inner", "squeeze", "last", "hidden")
    shape: type[Section] = MobileNetShape
    spec = MobileNetSpec
    quantised = QUANTISED
    offers: tuple[str, ...] = ("stages", "features")
    feature_tap = "features"

    def build(self, spec: MobileNetSpec) -> MobileNet:
        """Return an untrained net of a shape."""
        from rmtkd_edge.families.mobilenet.module import MobileNet

        return MobileNet(spec)

    def initialise(self, model: MobileNet, seed: int) -> MobileNet:
        """Set random weights, in place, and return the net."""
        from rmtkd_edge.families.mobilenet.sources import initialise

        return initialise(model, seed)

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[MobileNet, bool]:
        """Return the teacher that a recipe names, for images that `preprocessing` describes, and whether it classifies.

        Args:
            preprocessing: has `mean`, `std` and `image_size`.
        """
        from rmtkd_edge.families.mobilenet.sources import build
        from rmtkd_edge.families.torchvision_sources import Wanted

        shape = MobileNetShape.model_validate(recipe.model.shape)
        net, ready = build(recipe.model.source, Wanted(tuple(labels), preprocessing.image_size, recipe.seed), shape)
        net.spec = replace(net.spec, mean=tuple(preprocessing.mean), std=tuple(preprocessing.std))
        return net, ready

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> MobileNet | None:
        """Return a net that computes what torchvision's does; None for any other module."""
        from rmtkd_edge.families.mobilenet.sources import from_module

        return from_module(module, labels)

    def source_normalisation(self, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return ImageNet's mean and standard deviation for torchvision's weights, else those that the source names.

        Raises:
            UserError: neither a trained source nor the recipe says them, or they say different ones.
        """
        from rmtkd_edge.families.mobilenet.sources import normalisation_of
        from rmtkd_edge.families.torchvision_sources import source_normalisation

        return source_normalisation(recipe, normalisation_of)

    def describe_source(self, recipe: Recipe) -> str:
        """Return `mobilenet-v2-1` for random weights, else the last part of the source."""
        source = recipe.model.source
        if source == "scratch":
            shape = MobileNetShape.model_validate(recipe.model.shape)
            return f"mobilenet-{shape.version}-{shape.width:g}"
        return name_of(source)

    def analyse(
        self, model: MobileNet, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
    ) -> list[SiteSpectrum]:
        """Return the spectrum of every site of a folded net."""
        from rmtkd_edge.families.mobilenet.analyse import Places
        from rmtkd_edge.families.sampled import analyse_samples

        return analyse_samples(model, Places(options, model), sites, batches, effect, options)

    def narrow(
        self,
        model: MobileNet,
        projections: Mapping[str, Tensor],
        batches: Batches,
        effect: Batches,
        options: NarrowOptions,
    ) -> MobileNet:
        """Return the narrowed folded net, by least squares or by folding alone; `effect` is not looked at."""
        from rmtkd_edge.families.mobilenet.fold import plain_fold
        from rmtkd_edge.families.mobilenet.warm_start import warm_start

        if options.compress.warm_start == "fold":
            return plain_fold(model, projections)
        return warm_start(model, projections, batches(), ridge=options.compress.ridge, seed=options.seed)

    def producers(self, model: MobileNet) -> Mapping[str, Sequence[nn.Module]]:
        """Return, for every site, the layers whose output lives in it."""
        from rmtkd_edge.families.mobilenet.fold import producers

        return producers(model)

    def predict_ms(self, spec: MobileNetSpec, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one image; `sequence` is not looked at."""
        return cost.predict_ms(spec, curves)

    def file_bytes(self, spec: MobileNetSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        return cost.file_bytes(spec, precision)

    def config(self, spec: MobileNetSpec, task: str) -> dict[str, Any]:
        """Return config.json's own keys; `task` adds none."""
        keys = {"architectures": ["MobileNetV2ForImageClassification"], "num_channels": CHANNELS}
        return {**super().config(spec, task), **keys}

    def traced(self, folded: MobileNet) -> nn.Module:
        """Return the net with its norms folded into the convolutions."""
        from rmtkd_edge.families.mobilenet.graph import FusedNet

        return FusedNet(folded)

    def expected_ops(
        self, spec: MobileNetSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]
    ) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it."""
        return audit.expected_ops(spec, stage)

    def graph_values(self, model: onnx.ModelProto, spec: MobileNetSpec) -> dict[str, str]:
        """Return the graph's value for each tap."""
        from rmtkd_edge.families.mobilenet.graph import graph_values

        return graph_values(model, spec)

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

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return activations (B, C, H, W) as one row a pixel."""
        return activation.permute(0, 2, 3, 1).flatten(0, 2)

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees: of a stream's taps the stream."""
        if tap.startswith("stream."):
            return ".".join(tap.split(".")[:2])
        return f"{tap.removesuffix('.expand')}.inner" if tap.endswith(".expand") else tap


FAMILY = MobileNetFamily()
