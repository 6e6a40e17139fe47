"""BERT-like encoders: BERT, MiniLM, RoBERTa (also XLM-R, CamemBERT), DistilBERT, ELECTRA, MPNet, ALBERT, DeBERTa."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Export, Recipe
from rmtkd_edge.config.settings import Graph, Head, Scales
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, QuantiseOptions, Replacing, Site
from rmtkd_edge.families.defaults import FamilyDefaults
from rmtkd_edge.families.encoder.settings import EncoderShape
from rmtkd_edge.families.encoder.spec import EncoderSpec

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.encoder.module import Encoder
    from rmtkd_edge.families.spectrum import SiteSpectrum


class EncoderFamily(FamilyDefaults[EncoderSpec, "Encoder"]):
    """The family `encoder`; see families.base.Family."""

    name = "encoder"
    modality = "text"
    heads: tuple[Head, ...] = ("row", "token", "embedding")
    default_task = "text-classification"
    parity_hint = "--graph portable"
    curve: Literal["gemm", "conv"] = "gemm"
    samples = ("token", "sequence")
    sample_keys = "analyse.maximum_rows or analyse.tokens_per_sequence"
    site_kinds = ("stream", "embedding", "qk", "value", "ffn", "pooler")
    default_sites = ("stream", "qk", "value", "ffn", "pooler")
    offers: tuple[str, ...] = ("layers", "attention", "vocabulary")
    int8_scales: tuple[Scales, ...] = ("dynamic", "static")
    shape = EncoderShape
    spec = EncoderSpec

    def build(self, spec: EncoderSpec) -> Encoder:
        """Return an encoder whose weights are not set."""
        from rmtkd_edge.families.encoder.module import Encoder

        return Encoder(spec)

    def initialise(self, model: Encoder, seed: int) -> Encoder:
        """Set random weights, in place."""
        from rmtkd_edge.families.encoder.sources import initialise

        return initialise(model, seed)

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[Encoder, bool]:
        """Return the teacher that a recipe names; `preprocessing` is the tokenizer."""
        from rmtkd_edge.families.encoder.sources import load

        return load(recipe, labels, preprocessing)

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> Encoder | None:
        """Return an encoder that computes what a transformers classifier does; None for another library's module."""
        from rmtkd_edge.families.encoder.checkpoints import from_transformers

        return from_transformers(module, labels) if hasattr(module, "config") else None

    def describe_source(self, recipe: Recipe) -> str:
        """Return a short name of the model that a recipe starts from."""
        from rmtkd_edge.families.encoder.sources import describe_source

        return describe_source(recipe)

    def analyse(
        self, model: Encoder, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
    ) -> list[SiteSpectrum]:
        """Return the spectra of the sites of a folded encoder."""
        from rmtkd_edge.families.encoder.analyse import analyse_sites

        return analyse_sites(model, sites, batches, effect, options)

    def narrow(
        self,
        model: Encoder,
        projections: Mapping[str, Tensor],
        batches: Batches,
        effect: Batches,
        options: NarrowOptions,
    ) -> Encoder:
        """Return the narrowed folded encoder, by least squares or by algebra alone."""
        from rmtkd_edge.families.encoder.closed_form import narrower

        return narrower(model, batches, effect, options)(projections)

    def narrower(
        self, model: Encoder, batches: Batches, effect: Batches, options: NarrowOptions
    ) -> Callable[[Mapping[str, Tensor]], Encoder]:
        """Return `narrow` for many cuts: the teacher's part is computed once and held."""
        from rmtkd_edge.families.encoder.closed_form import narrower

        return narrower(model, batches, effect, options, keep=True)

    def fold(self, model: Encoder) -> Encoder:
        """Return the plain narrow encoder that `model` equals exactly."""
        from rmtkd_edge.families.encoder.fold import fold

        return fold(model)

    def unfold(self, folded: Encoder, projections: Mapping[str, Tensor]) -> Encoder:
        """Return `folded` with fixed projections by site put back."""
        from rmtkd_edge.families.encoder.fold import unfold

        return unfold(folded, projections)

    def projections(self, model: Encoder) -> dict[str, Tensor]:
        """Return the fixed projections by site; those of the embeddings follow tables, not layers."""
        from rmtkd_edge.families.encoder.fold import embedding_projections

        return {**super().projections(model), **embedding_projections(model)}

    def producers(self, model: Encoder) -> Mapping[str, Sequence[nn.Module]]:
        """Return, for every site, the linear layers whose output lives in it."""
        from rmtkd_edge.families.encoder.fold import producers

        return producers(model)

    def predict_ms(self, spec: EncoderSpec, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one sequence."""
        from rmtkd_edge.families.encoder.cost import predict_ms

        return predict_ms(spec, curves, sequence)

    def file_bytes(self, spec: EncoderSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        from rmtkd_edge.families.encoder.cost import file_bytes

        return file_bytes(spec, precision, graph)

    def shorter(self, spec: EncoderSpec, layers: Sequence[int]) -> EncoderSpec:
        """Return the shape of these layers alone."""
        from rmtkd_edge.families.depth import shorter

        return shorter(spec, layers)

    def shortened(self, model: Encoder, layers: Sequence[int]) -> Encoder:
        """Return a folded encoder of these layers alone, with copies of their weights."""
        from rmtkd_edge.families.depth import shortened

        return shortened(model, layers)

    def with_vocabulary(self, model: Encoder, kept: Sequence[int]) -> Encoder:
        """Return a folded encoder with these rows of the word table."""
        from rmtkd_edge.families.encoder.vocabulary import with_vocabulary

        return with_vocabulary(model, kept)

    def mixed(self, teacher: Encoder, student: Encoder) -> Replacing:
        """Return the student with layers of the teacher in place of some of its own."""
        from rmtkd_edge.families.encoder.depth import Mixed

        return Mixed(teacher, student)

    def standardise(self, folded: Encoder) -> Encoder:
        """Return the same function with the attention scale that other loaders derive from the width."""
        from rmtkd_edge.families.encoder.config import standardise

        return standardise(folded)

    def config(self, spec: EncoderSpec, task: str) -> dict[str, Any]:
        """Return config.json as transformers has it."""
        from rmtkd_edge.families.encoder.config import to_config

        return to_config(spec)

    def tensors(self, model: Encoder) -> dict[str, Tensor]:
        """Return the weights under transformers' names."""
        from rmtkd_edge.families.encoder.config import to_tensors

        return to_tensors(model)

    def from_tensors(self, spec: EncoderSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict from transformers' names."""
        from rmtkd_edge.families.encoder.config import from_tensors

        return from_tensors(spec, tensors)

    def fit_preprocessing(
        self, spec: EncoderSpec, files: Mapping[str, bytes], max_length: int | None = None
    ) -> dict[str, bytes]:
        """Return a tokenizer's files that give the inputs which the model was trained with.

        Next to an embedder's are those that say how its embeddings are pooled.
        """
        from rmtkd_edge.families.encoder.sentence_files import sentence_files
        from rmtkd_edge.families.tokenizer_files import fit_tokenizer, longest_text

        fitted = fit_tokenizer(spec, files, max_length)
        return (
            {**fitted, **sentence_files(spec, longest_text(spec, max_length))} if spec.head == "embedding" else fitted
        )

    def export(self, folded: Encoder, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
        """Write a folded encoder as ONNX."""
        from rmtkd_edge.families.encoder.graph import export
        from rmtkd_edge.families.onnx_operators import GraphOptions

        return export(folded, path, GraphOptions.of(options), metadata)

    def expected_ops(
        self, spec: EncoderSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]
    ) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it in a precision."""
        from rmtkd_edge.families.encoder.audit import expect_emitted, expect_optimised, expect_static
        from rmtkd_edge.families.onnx_operators import GraphOptions

        graph = GraphOptions.of(options)
        if stage == "emitted":
            return expect_emitted(spec, graph)
        if stage == "int8" and options.int8_scales == "static":
            return expect_static(spec, graph)
        return expect_optimised(spec, graph, stage)

    def graph_values(self, model: onnx.ModelProto, spec: EncoderSpec) -> dict[str, str]:
        """Return the graph's value for each tap."""
        from rmtkd_edge.families.encoder.audit import graph_values

        return graph_values(model, spec)

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees."""
        from rmtkd_edge.families.encoder.audit import site_of

        return site_of(tap)

    def stream_taps(self, spec: EncoderSpec) -> tuple[str, ...]:
        """Return the stream after the embeddings and after every layer."""
        return tuple(f"stream.{i}" for i in range(spec.depth + 1))

    def classified(self, activation: Tensor) -> Tensor:
        """Return the first token of a state (B, T, d), which a pooler reads."""
        return activation[:, 0]

    def attention_taps(self, spec: EncoderSpec) -> tuple[tuple[str, ...], ...]:
        """Return the queries and keys of every layer, of distances too, or the bias that all layers' scores have."""
        from rmtkd_edge.families.encoder.attention_scores import attention_taps

        return attention_taps(spec)

    def attention_scores(
        self, spec: EncoderSpec, layer: int, taps: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Return a layer's scores (B, heads, T, T) before the softmax, less 10,000 for padded keys, as in BERT."""
        from rmtkd_edge.families.encoder.attention_scores import attention_scores

        return attention_scores(spec, layer, taps, batch)

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return activations (B, T, d) at valid tokens."""
        return activation[batch["attention_mask"].bool()]

    def comparable(self, reference: Tensor, found: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return activations (B, T, d) at valid tokens alone; what was found may hold the first tokens only."""
        if not reference.ndim == found.ndim == 3:
            return reference, found
        first = reference[:, : found.shape[1]]
        valid = batch["attention_mask"][:, : found.shape[1]].bool()
        return (first[valid], found[valid]) if first.shape == found.shape else (first, found)

    def quantise(
        self, source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
    ) -> dict[str, Any]:
        """Write the int8 file of an fp32 one, dynamic or static."""
        from rmtkd_edge.families.tokens_int8 import quantise

        return quantise(source, target, calibration, options)


FAMILY = EncoderFamily()
