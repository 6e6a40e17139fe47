"""What a family of models is: what can be done with a model of an architecture.

Everything that knows an architecture lives in its family's folder; the rest of the package knows these protocols. They
are imported from here, those of spec.py and options.py too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from rmtkd_edge import plugins
from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Compress, Export, Recipe
from rmtkd_edge.config.settings import Graph, Head, Scales, Section
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.options import AnalyseOptions as AnalyseOptions
from rmtkd_edge.families.options import NarrowOptions as NarrowOptions
from rmtkd_edge.families.options import Probe as Probe
from rmtkd_edge.families.options import QuantiseOptions as QuantiseOptions
from rmtkd_edge.families.spec import Basis as Basis
from rmtkd_edge.families.spec import Input as Input
from rmtkd_edge.families.spec import Site as Site
from rmtkd_edge.families.spec import Spec as Spec
from rmtkd_edge.families.spec import list_sites as list_sites
from rmtkd_edge.families.spec import ranks_from as ranks_from
from rmtkd_edge.families.spec import ranks_of as ranks_of
from rmtkd_edge.families.spec import raw_from as raw_from

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.model import Model
    from rmtkd_edge.families.spectrum import SiteSpectrum

Tap = Callable[[str, "Tensor"], None]
Batches = Callable[[], Iterable[Mapping[str, "Tensor"]]]


S = TypeVar("S", bound=Spec)
M = TypeVar("M", bound="Model")


class Family(Protocol[S, M]):
    """What the package needs of an architecture. Models are the family's own torch modules, specs its own."""

    name: str
    modality: str  # of the tasks that it can serve: "text" or "image"
    heads: tuple[Head, ...]  # that its models can have
    default_task: str  # name of the task of a model that comes without a recipe
    curve: Literal["gemm", "conv"]  # the measured curve, and the alignment, that its widths follow
    samples: tuple[str, ...]  # values of analyse.sample, the default first
    sample_keys: str  # the recipe's keys that bring more samples, for messages
    site_kinds: tuple[str, ...]
    default_sites: tuple[str, ...]
    modes: tuple[str, ...]  # values of compress.mode
    int8_scales: tuple[Scales, ...]  # values of export.int8_scales, the default first
    shape: type[Section]  # settings of `model.shape`
    parity_hint: str  # an option of export to try where an exported file differs from torch, empty where there is none
    offers: tuple[str, ...]  # for others: `layers` to leave out, `attention`, `stages`, `features`, `vocabulary`
    feature_tap: str  # of the features (B, d) that the classifier reads, empty where there are none

    # shapes and modules
    def spec_from_dict(self, data: Mapping[str, Any]) -> S: ...
    def build(self, spec: S) -> M:
        """Return an untrained model of a shape (its weights are not set)."""

    def initialise(self, model: M, seed: int) -> M:
        """Set random weights, in place, and return the model."""

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[M, bool]:
        """Return the teacher that a recipe names and whether its classifier is trained already."""

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> M | None:
        """Return a model that computes what a library's module does; None for a module that is none of this family."""

    def source_normalisation(self, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return the mean and standard deviation that a recipe's checkpoint was trained with, None where there is none.

        Raises UserError for a trained checkpoint where neither it nor the recipe says them.
        """

    def describe_source(self, recipe: Recipe) -> str:
        """Return a short name of the model that a recipe starts from."""

    # cutting
    def never_cut(self, spec: S | None) -> str:
        """Return what keeps its width in a shape, or in all of the family's for None, and why; empty for nothing."""

    def sites_to_cut(self, spec: S, options: Compress) -> list[str]: ...
    def analyse(
        self, model: M, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
    ) -> list[SiteSpectrum]: ...
    def settle(
        self, spec: S, options: Compress, latency: Callable[[S], float] | None, multiple: int
    ) -> Callable[[dict[str, int]], dict[str, int]]:
        """Return what corrects chosen widths by site: latent sites that save nothing stay as they are."""

    def narrow(
        self, model: M, projections: Mapping[str, Tensor], batches: Batches, effect: Batches, options: NarrowOptions
    ) -> M:
        """Return the narrowed folded model for new projections by site, by closed form."""

    def narrower(
        self, model: M, batches: Batches, effect: Batches, options: NarrowOptions
    ) -> Callable[[Mapping[str, Tensor]], M]:
        """Return `narrow` as a function of the projections alone, for many cuts of one model."""

    def fold(self, model: M) -> M:
        """Return the plain narrow model that `model` equals exactly."""

    def unfold(self, folded: M, projections: Mapping[str, Tensor]) -> M:
        """Return `folded` with fixed projections by site put back after its producers."""

    def projections(self, model: M) -> dict[str, Tensor]:
        """Return the fixed projections by site."""

    def predict_ms(self, spec: S, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one input of a folded model, from measured curves."""

    def file_bytes(self, spec: S, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file of a folded model."""

    def shorter(self, spec: S, layers: Sequence[int]) -> S:
        """Return the shape of these layers alone, of a family that offers `layers`."""

    def shortened(self, model: M, layers: Sequence[int]) -> M:
        """Return a folded model of these layers alone, with copies of their weights and of all that is no layer."""

    def with_vocabulary(self, model: M, kept: Sequence[int]) -> M:
        """Return a folded model whose token i is the token kept[i] of this one, of a family that offers `vocabulary`.

        Raises UserError for a token that the model does not know.
        """

    def mixed(self, teacher: M, student: M) -> Replacing:
        """Return the student with layers of the teacher in place of some of its own; all but its layers is frozen.

        Of a family that offers `layers`; every layer of the student stands for equally many of the teacher's.
        """

    # export
    def standardise(self, folded: M) -> M:
        """Return the same function in the form that other loaders of its config.json expect."""

    def config(self, spec: S, task: str) -> dict[str, Any]:
        """Return config.json's own keys of the model type (this package's own keys are added under `rmtkd`)."""

    def tensors(self, model: M) -> dict[str, Tensor]:
        """Return the weights under the names that ship."""

    def from_tensors(self, spec: S, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict from the names that ship."""

    def fit_preprocessing(self, spec: S, files: Mapping[str, bytes], max_length: int | None = None) -> dict[str, bytes]:
        """Return the files, by name, that turn raw items into inputs, so that clients feed what the model reads."""

    def export(self, folded: M, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
        """Write a folded model as ONNX and return the files."""

    def expected_ops(self, spec: S, options: Export, stage: Literal["emitted", "fp32", "int8"]) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it in a precision."""

    def graph_values(self, model: onnx.ModelProto, spec: S) -> dict[str, str]:
        """Return the graph's value for each tap, to find the first site where an export differs."""

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees."""

    def stream_taps(self, spec: S) -> tuple[str, ...]:
        """Return the taps of the residual stream, shallow to deep, that a student can be matched at; () for none."""

    def stage_taps(self, spec: S) -> tuple[str, ...]:
        """Return the taps (B, C, H, W) of what every stage gives, shallow to deep; () for no stages."""

    def classified(self, activation: Tensor) -> Tensor:
        """Return what the classifier reads of a state of the stream, (B, channels)."""

    def attention_taps(self, spec: S) -> tuple[tuple[str, ...], ...]:
        """Return the taps of every layer that its attention scores come from, of a family that offers `attention`."""

    def attention_scores(self, spec: S, layer: int, taps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return a layer's scores (B, heads, T, T) before the softmax; those of padded keys are at most -5000."""

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return an activation as rows (n, channels): of what is no padding, one a token or a pixel."""

    def comparable(self, reference: Tensor, found: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the parts of two activations of one tap that must agree: padding, for one, is left out."""

    def quantise(
        self, source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
    ) -> dict[str, Any]:
        """Write the int8 file of an fp32 one and return how it was made."""


class Replacing(Protocol):
    """A module in which each layer of a student takes the place of the teacher's with the probability `rate`."""

    rate: float


def find_family(name: str) -> Family:
    """Return the family of a name; raise RecipeError with the known ones otherwise."""
    return plugins.find("families", name)


def family_of(model_or_spec: Any) -> Family:
    """Return the family of a model or of a spec; raise UserError for anything else."""
    spec = getattr(model_or_spec, "spec", model_or_spec)
    if not hasattr(spec, "family"):
        raise UserError(
            f"a {type(model_or_spec).__name__} is no model of a family",
            "rmtkd_edge.from_transformers(model) or rmtkd_edge.from_torchvision(model)",
        )
    return find_family(spec.family)


def spec_from_dict(data: Mapping[str, Any]) -> Spec:
    """Return the spec that `to_dict` wrote; raise KeyError, TypeError, ValueError or RecipeError for anything else."""
    return find_family(data["family"]).spec_from_dict(data)


def call(model: Model, batch: Mapping[str, Tensor], tap: Tap | None = None, spec: Spec | None = None) -> Tensor:
    """Return the outputs of a model, or of what wraps one (its `spec` is given then), for a batch."""
    inputs = [batch.get(item.name) for item in (spec or model.spec).inputs]
    return model(*inputs) if tap is None else model(*inputs, tap=tap)
