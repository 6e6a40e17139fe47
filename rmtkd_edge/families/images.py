"""What families of images share: where their models come from, and nets of convolutions with the norms folded in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Section
from rmtkd_edge.families.base import AnalyseOptions, Batches, Input, M, NarrowOptions, S, Site
from rmtkd_edge.families.convolution_cost import predict_ms
from rmtkd_edge.families.defaults import FamilyDefaults, SpecDefaults
from rmtkd_edge.families.torchvision_sources import (
    TORCHVISION,
    Normalisation,
    Wanted,
    fitting,
    source_normalisation,
)

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.sampled import Places
    from rmtkd_edge.families.spectrum import SiteSpectrum
    from rmtkd_edge.families.teacher_layers import LayerOutputs

CHANNELS = 3


class ImageSpec(SpecDefaults):
    """A spec that is a frozen dataclass with fields `raw`, `mean`, `std`, and `image_size` in pixels a side."""

    image_size: int

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return the one input: normalised images."""
        return (Input("pixel_values", "float32", ("batch", CHANNELS, self.image_size, self.image_size)),)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote, which says how images were normalised: nothing else is assumed."""
        named = {name: tuple(data[name]) for name in ("labels", "mean", "std")}
        return super().from_dict({**data, **named, "raw": dict(data["raw"])})


class Sources(Protocol):
    """Where a family's models come from: what its module of sources has; `shape` is a recipe's `model.shape`."""

    def initialise(self, model: Any, seed: int) -> Any:
        """Set random weights, in place, and return the model."""

    def scratch(self, wanted: Wanted, shape: Any) -> Any:
        """Return a model of random weights."""

    def pretrained(self, name: str, wanted: Wanted, shape: Any) -> Any:
        """Return one of torchvision's with its ImageNet weights (a network is needed once) and a new classifier."""

    def checkpoint(self, source: str, wanted: Wanted, shape: Any) -> tuple[Any, bool]:
        """Return the model of another library's file or folder, and whether its classifier is trained already."""

    def from_module(self, module: nn.Module, labels: Sequence[str] | None) -> Any | None:
        """Return a model that computes what a library's module does, None for any other module."""

    def normalisation_of(self, source: str) -> Normalisation | None:
        """Return the mean and standard deviation that such a file or folder names, None where it says nothing."""


class ImageFamily(FamilyDefaults[S, M]):
    """A family of models of images; its spec is an `ImageSpec`, its models have a `classifier`."""

    name: str
    modality = "image"
    default_task = "image-classification"
    shape: type[Section]
    stem = "stem"  # the key of `model.shape`, and of a spec, that says how the first layer reads pixels

    def sources(self) -> Sources:
        """Return the family's module of sources, which loads torch."""
        raise NotImplementedError

    def scratch_name(self, shape: Any) -> str:
        """Return a short name of a model of random weights."""
        raise NotImplementedError

    def initialise(self, model: M, seed: int) -> M:
        """Set random weights, in place, and return the model."""
        return self.sources().initialise(model, seed)  # type: ignore[no-any-return]

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[M, bool]:
        """Return the teacher that a recipe names, for images that `preprocessing` describes, and whether it classifies.

        Args:
            preprocessing: has `mean`, `std` and `image_size`.
        """
        wanted = Wanted(tuple(labels), preprocessing.image_size, recipe.seed)
        found, ready = self.from_source(recipe.model.source, wanted, self.shape.model_validate(recipe.model.shape))
        model: Any = self.fold(found)
        model.spec = replace(model.spec, mean=tuple(preprocessing.mean), std=tuple(preprocessing.std))
        return model, ready

    def from_source(self, source: str, wanted: Wanted, shape: Any) -> tuple[M, bool]:
        """Return the model of a source and whether its classifier is trained already.

        Args:
            source: `scratch`, `torchvision:NAME`, a hub id, a file or folder of another library, or a folder that this
                package wrote (a run's compress/teacher, or an export).
            shape: a recipe's `model.shape`.

        Raises:
            UserError: it cannot be loaded, knows other labels or sizes, or nothing says what it computes.
            RunDirError: a folder of this package was altered.
        """
        from rmtkd_edge.families.sources import own_model
        from rmtkd_edge.families.weights_files import downloaded

        known = self.sources()
        if source == "scratch":
            return known.scratch(wanted, shape), False
        if source.startswith(TORCHVISION):
            return known.pretrained(source.removeprefix(TORCHVISION), wanted, shape), False
        source = downloaded(source)
        ours: Any = own_model(Path(source))
        if ours is None:
            return known.checkpoint(source, wanted, shape)
        return fitting(source, ours, self.name, wanted, shape, self.stem), True

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> M | None:
        """Return a model that computes what a library's module does, None for any other module.

        Weights are copied. Images are taken to be normalised as ImageNet's; labels that are not given are those of a
        config, or LABEL_0, LABEL_1, and so on.

        Raises:
            UserError: a module of the right class that is built of other parts.
        """
        return self.sources().from_module(module, labels)

    def source_normalisation(self, recipe: Recipe) -> Normalisation | None:
        """Return ImageNet's mean and standard deviation for torchvision's weights, else those that the source names.

        Raises:
            UserError: neither a trained source nor the recipe says them, or they say different ones.
        """
        return source_normalisation(recipe, self.name, self.sources().normalisation_of)

    def describe_source(self, recipe: Recipe) -> str:
        """Return a name of the shape for random weights, else the last part of the source."""
        if recipe.model.source == "scratch":
            return self.scratch_name(self.shape.model_validate(recipe.model.shape))
        return recipe.model.source.split(":", 1)[-1].rstrip("/").rsplit("/", 1)[-1].removesuffix(".safetensors")


class Parts(NamedTuple, Generic[M]):
    """What a family of convolutional nets is made of.

    Attributes:
        net: the module, made of a spec.
        producers: returns, for every site, the layers whose output lives in it.
        places: where sites are analysed, made of options and a net; see families/sampled.py.
        plain_fold: narrows by algebra alone.
        layer_outputs: yields what a net's layers give; see families/teacher_layers.py.
        warm_start: narrows by least squares, from a teacher's outputs, projections and a `ridge`.
        fused: what is traced of a net, with its norms folded into the convolutions.
        graph_values: returns the graph's value for each tap.
    """

    net: Callable[[Any], M]
    producers: Callable[[M], Mapping[str, Sequence[nn.Module]]]
    places: Callable[[AnalyseOptions, M], Places]
    plain_fold: Callable[[M, Mapping[str, Tensor]], M]
    layer_outputs: Callable[[M, Sequence[Tensor], int], LayerOutputs]
    warm_start: Callable[..., M]
    fused: Callable[[M], nn.Module]
    graph_values: Callable[[onnx.ModelProto, Any], dict[str, str]]


class ConvolutionalFamily(ImageFamily[S, M]):
    """A family of nets of convolutions, whose spec lists its `convolutions()`."""

    curve: Literal["gemm", "conv"] = "conv"
    samples: tuple[str, ...] = ("pixel", "image")
    offers: tuple[str, ...] = ("stages", "features")
    architecture: str  # of transformers, that config.json names

    def parts(self) -> Parts[M]:
        """Return what the family is made of, which loads torch."""
        raise NotImplementedError

    def build(self, spec: S) -> M:
        """Return an untrained net of a shape."""
        return self.parts().net(spec)

    def producers(self, model: M) -> Mapping[str, Sequence[nn.Module]]:
        """Return, for every site that is there, the layers whose output lives in it."""
        return self.parts().producers(model)

    def analyse(
        self, model: M, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
    ) -> list[SiteSpectrum]:
        """Return the spectrum of every site of a folded net."""
        from rmtkd_edge.families.sampled import analyse_samples

        return analyse_samples(model, self.parts().places(options, model), sites, batches, effect, options)

    def narrow(
        self, model: M, projections: Mapping[str, Tensor], batches: Batches, effect: Batches, options: NarrowOptions
    ) -> M:
        """Return the narrowed folded net, by least squares or by folding alone; `effect` is not looked at."""
        return self._narrower(model, batches, options, keep=False)(projections)

    def narrower(
        self, model: M, batches: Batches, effect: Batches, options: NarrowOptions
    ) -> Callable[[Mapping[str, Tensor]], M]:
        """Return `narrow` for many cuts: what the teacher's layers give is computed once and held."""
        return self._narrower(model, batches, options, keep=True)

    def _narrower(
        self, model: M, batches: Batches, options: NarrowOptions, *, keep: bool
    ) -> Callable[[Mapping[str, Tensor]], M]:
        from rmtkd_edge.families.teacher_layers import TeacherLayers

        parts, compress = self.parts(), options.compress
        if compress.warm_start == "fold":
            return partial(parts.plain_fold, model)
        outputs = TeacherLayers(model, batches(), parts.layer_outputs, seed=options.seed, keep=keep)
        return partial(parts.warm_start, outputs, ridge=compress.ridge)

    def predict_ms(self, spec: Any, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one image; `sequence` is not looked at."""
        return predict_ms(spec.convolutions(), curves)

    def config(self, spec: S, task: str) -> dict[str, Any]:
        """Return config.json's own keys; `task` adds none."""
        return {**super().config(spec, task), "architectures": [self.architecture], "num_channels": CHANNELS}

    def traced(self, folded: M) -> nn.Module:
        """Return the net with its norms folded into the convolutions."""
        return self.parts().fused(folded)

    def graph_values(self, model: onnx.ModelProto, spec: S) -> dict[str, str]:
        """Return the graph's value for each tap."""
        return self.parts().graph_values(model, spec)

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return activations (B, C, H, W) as one row a pixel."""
        return activation.permute(0, 2, 3, 1).flatten(0, 2)
