"""ModernBERT classifiers: pre-norm layers, rotary positions, gated FFNs, attention over all tokens or a window.

Queries and keys are not cut: rotary positions turn fixed pairs of their channels, so no projection of them is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Export, Recipe
from rmtkd_edge.config.settings import Graph, Scales
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, QuantiseOptions, Replacing, Site
from rmtkd_edge.families.defaults import FamilyDefaults
from rmtkd_edge.families.modernbert.settings import ModernBertShape
from rmtkd_edge.families.modernbert.spec import MODEL_TYPE, ModernBertSpec

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.modernbert.module import ModernBert
    from rmtkd_edge.families.spectrum import SiteSpectrum


class ModernBertFamily(FamilyDefaults[ModernBertSpec, "ModernBert"]):
    """The family `modernbert`; see families.base.Family."""

    name = MODEL_TYPE
    modality = "text"
    default_task = "text-classification"
    curve: Literal["gemm", "conv"] = "gemm"
    samples = ("token", "sequence")
    sample_keys = "analyse.maximum_rows or analyse.tokens_per_sequence"
    site_kinds = ("stream", "value", "ffn", "pooler")
    default_sites = site_kinds
    offers: tuple[str, ...] = ("layers", "vocabulary")
    int8_scales: tuple[Scales, ...] = ("dynamic", "static")
    shape = ModernBertShape
    spec = ModernBertSpec

    def build(self, spec: ModernBertSpec) -> ModernBert:
        """Return a model whose weights are not set."""
        from rmtkd_edge.families.modernbert.module import ModernBert

        return ModernBert(spec)

    def initialise(self, model: ModernBert, seed: int) -> ModernBert:
        """Set random weights, in place."""
        from rmtkd_edge.families.modernbert.sources import initialise

        return initialise(model, seed)

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[ModernBert, bool]:
        """Return the teacher that a recipe names; `preprocessing` is the tokenizer."""
        from rmtkd_edge.families.modernbert.sources import load

        return load(recipe, labels, preprocessing)

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> ModernBert | None:
        """Return a model that computes what transformers' ModernBERT classifier does; None for any other module."""
        from rmtkd_edge.families.modernbert.sources import CLASSIFIERS

        if getattr(getattr(module, "config", None), "model_type", None) != MODEL_TYPE:
            return None
        return CLASSIFIERS.from_transformers(module, labels)

    def describe_source(self, recipe: Recipe) -> str:
        """Return a short name of the model that a recipe starts from."""
        from rmtkd_edge.families.modernbert.sources import describe_source

        return describe_source(recipe)

    def analyse(
        self,
        model: ModernBert,
        sites: Sequence[Site],
        batches: Batches,
        effect: Batches | None,
        options: AnalyseOptions,
    ) -> list[SiteSpectrum]:
        """Return the spectra of the sites of a folded model."""
        from rmtkd_edge.families.modernbert.analyse import analyse_sites

        return analyse_sites(model, sites, batches, effect, options)

    def narrow(
        self,
        model: ModernBert,
        projections: Mapping[str, Tensor],
        batches: Batches,
        effect: Batches,
        options: NarrowOptions,
    ) -> ModernBert:
        """Return the narrowed folded model, by least squares or by algebra alone."""
        return self.narrower(model, batches, effect, options)(projections)

    def narrower(
        self, model: ModernBert, batches: Batches, effect: Batches, options: NarrowOptions
    ) -> Callable[[Mapping[str, Tensor]], ModernBert]:
        """Return `narrow` for many cuts: what tokens count is found once."""
        from rmtkd_edge.families.modernbert.warm_start import narrower

        return narrower(model, batches, effect, options)

    def fold(self, model: ModernBert) -> ModernBert:
        """Return the plain narrow model that `model` equals exactly."""
        from rmtkd_edge.families.modernbert.fold import fold

        return fold(model)

    def unfold(self, folded: ModernBert, projections: Mapping[str, Tensor]) -> ModernBert:
        """Return `folded` with fixed projections by site put back."""
        from rmtkd_edge.families.modernbert.fold import unfold

        return unfold(folded, projections)

    def projections(self, model: ModernBert) -> dict[str, Tensor]:
        """Return the fixed projections by site; the stream's follows the word table too."""
        from rmtkd_edge.families.modernbert.fold import projections

        return projections(model)

    def producers(self, model: ModernBert) -> Mapping[str, Sequence[nn.Module]]:
        """Return, for every site, the linear layers whose output lives in it."""
        from rmtkd_edge.families.modernbert.fold import producers

        return producers(model)

    def predict_ms(self, spec: ModernBertSpec, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one sequence."""
        from rmtkd_edge.families.modernbert.cost import predict_ms

        return predict_ms(spec, curves, sequence)

    def file_bytes(self, spec: ModernBertSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        from rmtkd_edge.families.modernbert.cost import file_bytes

        return file_bytes(spec, precision, graph)

    def never_cut(self, spec: ModernBertSpec | None) -> str:
        """Say why queries and keys keep their width."""
        return "queries and keys are not cut: rotary positions turn fixed pairs of their channels"

    def shorter(self, spec: ModernBertSpec, layers: Sequence[int]) -> ModernBertSpec:
        """Return the shape of these layers alone; each stays global or local as it was."""
        from rmtkd_edge.families.depth import shorter

        return shorter(spec, layers)

    def shortened(self, model: ModernBert, layers: Sequence[int]) -> ModernBert:
        """Return a folded model of these layers alone, with copies of their weights."""
        from rmtkd_edge.families.depth import shortened

        return shortened(model, layers)

    def with_vocabulary(self, model: ModernBert, kept: Sequence[int]) -> ModernBert:
        """Return a folded model with these rows of the word table."""
        from rmtkd_edge.families.modernbert.vocabulary import with_vocabulary

        return with_vocabulary(model, kept)

    def mixed(self, teacher: ModernBert, student: ModernBert) -> Replacing:
        """Return the student with layers of the teacher in place of some of its own."""
        from rmtkd_edge.families.modernbert.depth import Mixed

        return Mixed(teacher, student)

    def config(self, spec: ModernBertSpec, task: str) -> dict[str, Any]:
        """Return config.json as transformers has it."""
        from rmtkd_edge.families.modernbert.config import to_config

        return to_config(spec)

    def tensors(self, model: ModernBert) -> dict[str, Tensor]:
        """Return the weights under transformers' names."""
        from rmtkd_edge.families.modernbert.names import to_transformers

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        return to_transformers(model.spec, state)

    def from_tensors(self, spec: ModernBertSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict from transformers' names."""
        from rmtkd_edge.families.modernbert.names import from_transformers

        return from_transformers(spec, tensors)

    def fit_preprocessing(
        self, spec: ModernBertSpec, files: Mapping[str, bytes], max_length: int | None = None
    ) -> dict[str, bytes]:
        """Return a tokenizer's files that give the inputs which the model was trained with."""
        from rmtkd_edge.families.tokenizer_files import fit_tokenizer

        return fit_tokenizer(spec, files, max_length)

    def export(self, folded: ModernBert, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
        """Write a folded model as ONNX."""
        from rmtkd_edge.families.modernbert.graph import export

        return export(folded, path, options, metadata)

    def expected_ops(
        self, spec: ModernBertSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]
    ) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it in a precision."""
        from rmtkd_edge.families.modernbert.audit import expected_ops

        return expected_ops(spec, options, stage)

    def graph_values(self, model: onnx.ModelProto, spec: ModernBertSpec) -> dict[str, str]:
        """Return the graph's value for each tap."""
        from rmtkd_edge.families.modernbert.audit import graph_values

        return graph_values(model, spec)

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees."""
        if tap.startswith("stream"):
            return "stream"
        place, _, part = tap.rpartition(".")
        return f"{place}.ffn" if part in ("up", "gate") else tap

    def stream_taps(self, spec: ModernBertSpec) -> tuple[str, ...]:
        """Return the stream after the embeddings and after every layer."""
        return tuple(f"stream.{i}" for i in range(len(spec.layers) + 1))

    def classified(self, activation: Tensor) -> Tensor:
        """Return the first token of a state (B, T, d), which stands for all where the pooler reads their mean."""
        return activation[:, 0]

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return activations (B, T, d) at valid tokens."""
        return activation[batch["attention_mask"].bool()]

    def comparable(self, reference: Tensor, found: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return activations (B, T, d) at valid tokens alone."""
        if not reference.ndim == found.ndim == 3 or reference.shape != found.shape:
            return reference, found
        return self.rows(reference, batch), self.rows(found, batch)

    def quantise(
        self, source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
    ) -> dict[str, Any]:
        """Write the int8 file of an fp32 one, dynamic or static."""
        from rmtkd_edge.families.tokens_int8 import quantise

        return quantise(source, target, calibration, options)


FAMILY = ModernBertFamily()
