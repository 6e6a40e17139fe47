"""Defaults that most families share. A family overrides what differs; families/base.py says what each member is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, cast

import numpy as np

from rmtkd_edge.config.recipe import Compress, Export, Recipe
from rmtkd_edge.config.settings import Graph, Head, Scales
from rmtkd_edge.families.base import (
    Batches,
    Input,
    M,
    NarrowOptions,
    QuantiseOptions,
    Replacing,
    S,
    list_sites,
    raw_from,
)

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

NOTE = (
    "AutoModel.from_pretrained cannot rebuild a model of these widths; rmtkd_edge.load(FOLDER) and the files under "
    "onnx/ can."
)


class SpecDefaults:
    """A spec that is a frozen dataclass with a field `raw`, of a model that reads float inputs and no sequences."""

    family: ClassVar[str]
    labels: tuple[str, ...]

    @property
    def model_type(self) -> str:
        """Return the type that config.json names."""
        return self.family

    @property
    def head(self) -> Head:
        """Return `row`: the outputs are values of the labels for a row."""
        return "row"

    @property
    def outputs(self) -> int:
        """Return one value for each label."""
        return len(self.labels)

    @property
    def dropout(self) -> float:
        """Return 0: there is no dropout."""
        return 0.0

    @property
    def max_length(self) -> int | None:
        """Return None: there are no sequences."""
        return None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return the inputs in their order."""
        raise NotImplementedError

    def example_inputs(self, batch: int, sequence: int | None, seed: int) -> dict[str, np.ndarray]:
        """Return random numbers of mean 0 and variance 1, as normalised inputs have them; named sizes are `batch`."""
        found = {}
        for item in self.inputs:
            shape = [size if isinstance(size, int) else batch for size in item.shape]
            rng = np.random.default_rng([seed, batch, shape[-1]])
            found[item.name] = rng.standard_normal(shape, dtype=np.float32)
        return found

    def padded_inputs(self, batch: int, sequence: int, seed: int) -> dict[str, np.ndarray]:
        """Return what `example_inputs` does: a family of sequences knows how its own are padded."""
        return self.example_inputs(batch, sequence, seed)

    def with_projections(self, raw: Mapping[str, int]) -> Self:
        """Return the spec with projections after producers, by site the width before them."""
        return replace(self, raw=raw)  # type: ignore[type-var]

    def count_body_parameters(self) -> int | None:
        """Return None: which layer is the classifier is the family's to say."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"family": self.family, "model_type": self.model_type, **asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote, where its fields hold no dataclasses."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        own = {name: value for name, value in data.items() if name in known or name not in ("family", "model_type")}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()})


class FamilyDefaults(Generic[S, M]):
    """A family whose model is traced as it is, whose int8 is static, and whose sites have taps of their names."""

    heads: tuple[Head, ...] = ("row",)
    modes: tuple[str, ...] = ("width",)
    default_sites: tuple[str, ...]
    samples: tuple[str, ...]
    sample_keys = "analyse.calibration"
    parity_hint = ""
    offers: tuple[str, ...] = ()
    int8_scales: tuple[Scales, ...] = ("static",)
    feature_tap = ""
    quantised: tuple[str, ...] = ("Gemm", "MatMul", "Conv")  # operators that int8 runs on

    spec: type[S]  # with `from_dict`, as SpecDefaults has it

    def spec_from_dict(self, data: Mapping[str, Any]) -> S:
        """Return the spec that `to_dict` wrote."""
        return self.spec.from_dict(data)

    def build(self, spec: S) -> M:
        """Return an untrained model of a shape."""
        raise NotImplementedError

    def producers(self, model: M) -> Mapping[str, Sequence[nn.Module]]:
        """Return, by site, the layers with a `projection` whose output lives in it."""
        raise NotImplementedError

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> M | None:
        """Return None: no library's module is one of this family."""

    def source_normalisation(self, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return None: checkpoints say nothing about it."""

    def describe_source(self, recipe: Recipe) -> str:
        """Return the family and the last part of the source."""
        return f"{recipe.model.family}-{recipe.model.source.split(':', 1)[-1].rstrip('/').rsplit('/', 1)[-1]}"

    # cutting
    def never_cut(self, spec: S | None) -> str:
        """Return nothing: every width can be cut."""
        return ""

    def sites_to_cut(self, spec: S, options: Compress) -> list[str]:
        """Return the names of the sites of the recipe's kinds, shallow to deep."""
        return [site.name for site in list_sites(spec, options.sites or self.default_sites)]

    def settle(
        self, spec: S, options: Compress, latency: Callable[[S], float] | None, multiple: int
    ) -> Callable[[dict[str, int]], dict[str, int]]:
        """Every chosen width stands."""
        return lambda widths: widths

    def narrow(
        self, model: M, projections: Mapping[str, Tensor], batches: Batches, effect: Batches, options: NarrowOptions
    ) -> M:
        """Return the narrowed folded model."""
        raise NotImplementedError

    def narrower(
        self, model: M, batches: Batches, effect: Batches, options: NarrowOptions
    ) -> Callable[[Mapping[str, Tensor]], M]:
        """Narrow anew for every cut."""
        return lambda projections: self.narrow(model, projections, batches, effect, options)

    def fold(self, model: M) -> M:
        """Return the plain narrow model that `model` equals exactly: P W in place of W and P."""
        from rmtkd_edge.families.layers import folded_state, with_state

        return with_state(self.build(cast("S", model.spec.with_projections({}))), folded_state(model), model)

    def unfold(self, folded: M, projections: Mapping[str, Tensor]) -> M:
        """Return `folded` with the fixed projections put back after its producers: P^T W', since P P^T = I."""
        from rmtkd_edge.families.layers import unfolded_state, with_state

        wide = self.build(cast("S", folded.spec.with_projections(raw_from(folded.spec, projections))))
        return with_state(wide, unfolded_state(folded, wide, self.producers(wide), projections), folded)

    def projections(self, model: M) -> dict[str, Tensor]:
        """Return the fixed projections by site; all producers of a site share one."""
        first = {site: layers[0].projection for site, layers in self.producers(model).items() if layers}
        return {site: p for site, p in first.items() if p is not None}  # type: ignore[misc]

    def file_bytes(self, spec: S, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return four bytes or one for each parameter: what a graph itself takes is not counted."""
        return spec.count_parameters() * {"fp32": 4, "int8": 1}[precision]

    def shorter(self, spec: S, layers: Sequence[int]) -> S:
        """Refuse: no layer can be left out."""
        raise NotImplementedError

    def shortened(self, model: M, layers: Sequence[int]) -> M:
        """Refuse: no layer can be left out."""
        raise NotImplementedError

    def mixed(self, teacher: M, student: M) -> Replacing:
        """Refuse: there are no layers to replace."""
        raise NotImplementedError

    # export
    def standardise(self, folded: M) -> M:
        """Return the model as it is: no other loader expects another form."""
        return folded

    def config(self, spec: S, task: str) -> dict[str, Any]:
        """Return the model type and the labels, and that transformers cannot rebuild the model."""
        return {
            "model_type": spec.model_type,
            "id2label": {str(i): name for i, name in enumerate(spec.labels)},
            "label2id": {name: i for i, name in enumerate(spec.labels)},
            "rmtkd": {"transformers": False, "note": NOTE},
        }

    def tensors(self, model: M) -> dict[str, Tensor]:
        """Return the weights under this package's own names: no other library has widths like these."""
        return dict(model.state_dict())

    def from_tensors(self, spec: S, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict from the names that ship."""
        return dict(tensors)

    def fit_preprocessing(self, spec: S, files: Mapping[str, bytes], max_length: int | None = None) -> dict[str, bytes]:
        """Return the files as they are."""
        return dict(files)

    def traced(self, folded: M) -> nn.Module:
        """Return the module that is traced for ONNX, called with the spec's inputs."""
        return folded

    def export(self, folded: M, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
        """Trace a folded model, the named sizes of its inputs dynamic, and return the files."""
        import torch

        from rmtkd_edge.families.onnx_program import export_module

        inputs = folded.spec.inputs
        sample = {i.name: torch.zeros([s if isinstance(s, int) else 2 for s in i.shape]) for i in inputs}
        axes = {i.name: {axis: s for axis, s in enumerate(i.shape) if isinstance(s, str)} for i in inputs}
        module = self.traced(folded.eval()).eval()
        return export_module(module, path, sample, axes, opset=options.opset, metadata=metadata)

    def graph_values(self, model: onnx.ModelProto, spec: S) -> dict[str, str]:
        """Return nothing: a wrong export shows in its outputs alone."""
        return {}

    def site_of(self, tap: str) -> str:
        """Return the tap: it is named after its site."""
        return tap

    def stream_taps(self, spec: S) -> tuple[str, ...]:
        """Return nothing: there is no residual stream."""
        return ()

    def stage_taps(self, spec: S) -> tuple[str, ...]:
        """Return nothing: there are no stages."""
        return ()

    def classified(self, activation: Tensor) -> Tensor:
        """Return the activation (B, channels) as it is."""
        return activation

    def attention_taps(self, spec: S) -> tuple[tuple[str, ...], ...]:
        """Return nothing: there is no attention."""
        return ()

    def attention_scores(self, spec: S, layer: int, taps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Refuse: there is no attention."""
        raise NotImplementedError

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the activation (B, channels) as it is."""
        return activation

    def comparable(self, reference: Tensor, found: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return both whole: nothing is padded."""
        return reference, found

    def expected_ops(self, spec: S, options: Export, stage: Literal["emitted", "fp32", "int8"]) -> dict[str, int]:
        """Return nothing: no operators are counted."""
        return {}

    def quantise(
        self, source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
    ) -> dict[str, Any]:
        """Write the static int8 file of an fp32 one and return how it was made."""
        from rmtkd_edge.families.static_int8 import quantise

        return quantise(source, target, calibration, self.quantised, reduce_range=options.reduce_range)
