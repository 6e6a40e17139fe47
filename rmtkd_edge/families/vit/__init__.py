"""Vision transformers: ViT and DeiT of transformers, VisionTransformer of torchvision, with free widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.config.settings import Graph, Scales, Section
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, QuantiseOptions, Replacing, Site
from rmtkd_edge.families.images import ImageFamily, Sources
from rmtkd_edge.families.vit import cost
from rmtkd_edge.families.vit.settings import VitShape
from rmtkd_edge.families.vit.spec import VitSpec

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from rmtkd_edge.families.spectrum import SiteSpectrum
    from rmtkd_edge.families.vit.module import VisionTransformer


class VitFamily(ImageFamily[VitSpec, "VisionTransformer"]):
    """The family `vit`; see families/base.py for what each member is for."""

    name = "vit"
    parity_hint = "--graph portable"
    curve: Literal["gemm", "conv"] = "gemm"
    samples: tuple[str, ...] = ("token", "image")
    sample_keys = "analyse.calibration or analyse.tokens_per_sequence"
    site_kinds: tuple[str, ...] = ("stream", "qk", "value", "ffn")
    default_sites: tuple[str, ...] = ("stream", "qk", "value", "ffn")
    int8_scales: tuple[Scales, ...] = ("dynamic",)
    shape: type[Section] = VitShape
    stem = "patch"
    spec = VitSpec
    offers: tuple[str, ...] = ("layers", "attention", "features")
    feature_tap = "features"

    def build(self, spec: VitSpec) -> VisionTransformer:
        """Return an untrained model of a shape."""
        from rmtkd_edge.families.vit.module import VisionTransformer

        return VisionTransformer(spec)

    def sources(self) -> Sources:
        """Return the module of sources."""
        from rmtkd_edge.families.vit import sources

        return sources

    def scratch_name(self, shape: VitShape) -> str:
        """Return `vit-6x192`."""
        return f"{shape.model_type}-{shape.layers}x{shape.width}"

    def analyse(
        self,
        model: VisionTransformer,
        sites: Sequence[Site],
        batches: Batches,
        effect: Batches | None,
        options: AnalyseOptions,
    ) -> list[SiteSpectrum]:
        """Return the spectrum of every site of a folded model."""
        from rmtkd_edge.families.sampled import analyse_samples
        from rmtkd_edge.families.vit.analyse import Tokens

        return analyse_samples(model, Tokens(model, options), sites, batches, effect, options)

    def narrow(
        self,
        model: VisionTransformer,
        projections: Mapping[str, Tensor],
        batches: Batches,
        effect: Batches,
        options: NarrowOptions,
    ) -> VisionTransformer:
        """Return the narrowed folded model, by least squares or by algebra alone."""
        return self.narrower(model, batches, effect, options)(projections)

    def narrower(
        self, model: VisionTransformer, batches: Batches, effect: Batches, options: NarrowOptions
    ) -> Callable[[Mapping[str, Tensor]], VisionTransformer]:
        """Return `narrow` for many cuts: what positions count is found once."""
        from rmtkd_edge.families.vit.closed_form import narrower

        return narrower(model, batches, effect, options)

    def producers(self, model: VisionTransformer) -> Mapping[str, Sequence[nn.Module]]:
        """Return, for every site, the layers whose output lives in it."""
        from rmtkd_edge.families.vit.fold import producers

        return producers(model)

    def predict_ms(self, spec: VitSpec, curves: Calibration, sequence: int) -> float:
        """Return the predicted latency in ms of one image; `sequence` is not looked at."""
        return cost.predict_ms(spec, curves)

    def file_bytes(self, spec: VitSpec, precision: Literal["fp32", "int8"], graph: Graph) -> int:
        """Return the predicted size in bytes of the ONNX file."""
        return cost.file_bytes(spec, precision, graph)

    def shorter(self, spec: VitSpec, layers: Sequence[int]) -> VitSpec:
        """Return the shape of these layers alone."""
        from rmtkd_edge.families.depth import shorter

        return shorter(spec, layers)

    def shortened(self, model: VisionTransformer, layers: Sequence[int]) -> VisionTransformer:
        """Return a folded model of these layers alone, with copies of their weights."""
        from rmtkd_edge.families.depth import shortened

        return shortened(model, layers)

    def mixed(self, teacher: VisionTransformer, student: VisionTransformer) -> Replacing:
        """Return the student with layers of the teacher in place of some of its own."""
        from rmtkd_edge.families.vit.depth import Mixed

        return Mixed(teacher, student)

    def standardise(self, folded: VisionTransformer) -> VisionTransformer:
        """Return the same function with the attention scale that other loaders derive from the width."""
        from rmtkd_edge.families.vit.config import standardise

        return standardise(folded)

    def config(self, spec: VitSpec, task: str) -> dict[str, Any]:
        """Return config.json as transformers has it."""
        from rmtkd_edge.families.vit.config import to_config

        return to_config(spec)

    def tensors(self, model: VisionTransformer) -> dict[str, Tensor]:
        """Return the weights under the names that transformers' files have."""
        from rmtkd_edge.families.vit.names import to_hub

        return to_hub(model)

    def from_tensors(self, spec: VitSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict from transformers' names."""
        from rmtkd_edge.families.vit.names import from_transformers, merged

        return merged(from_transformers(tensors, spec.model_type))

    def export(self, folded: VisionTransformer, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
        """Write a folded model as ONNX."""
        from rmtkd_edge.families.onnx_operators import GraphOptions
        from rmtkd_edge.families.vit.graph import export

        return export(folded, path, GraphOptions.of(options), metadata)

    def expected_ops(self, spec: VitSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]) -> dict[str, int]:
        """Return the op counts of the graph as emitted, or as onnxruntime runs it in a precision."""
        from rmtkd_edge.families.onnx_operators import GraphOptions
        from rmtkd_edge.families.vit.audit import expect_emitted, expect_optimised

        graph = GraphOptions.of(options)
        return expect_emitted(spec, graph) if stage == "emitted" else expect_optimised(spec, graph, stage)

    def graph_values(self, model: onnx.ModelProto, spec: VitSpec) -> dict[str, str]:
        """Return the graph's value for each tap."""
        from rmtkd_edge.families.vit.audit import graph_values

        return graph_values(model, spec)

    def site_of(self, tap: str) -> str:
        """Return the site whose producers make what a tap sees."""
        from rmtkd_edge.families.vit.audit import site_of

        return site_of(tap)

    def stream_taps(self, spec: VitSpec) -> tuple[str, ...]:
        """Return the stream after the embeddings and after every layer."""
        return tuple(f"stream.{i}" for i in range(len(spec.layers) + 1))

    def classified(self, activation: Tensor) -> Tensor:
        """Return the class token of a state (B, T, d), or the mean of one without: of as many tokens as patches."""
        return activation.mean(1) if isqrt(activation.shape[1]) ** 2 == activation.shape[1] else activation[:, 0]

    def attention_taps(self, spec: VitSpec) -> tuple[tuple[str, ...], ...]:
        """Return the queries and keys of every layer."""
        return tuple((f"layer.{i}.q", f"layer.{i}.k") for i in range(len(spec.layers)))

    def attention_scores(
        self, spec: VitSpec, layer: int, taps: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Return a layer's scores (B, heads, T, T) before the softmax; nothing is padded."""
        shape, names = spec.layers[layer], self.attention_taps(spec)[layer]
        q, k = (taps[name].float().unflatten(2, (shape.heads, shape.qk)).transpose(1, 2) for name in names)
        return shape.scale * q @ k.transpose(2, 3)

    def rows(self, activation: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return activations (B, T, d) as one row a token."""
        return activation.flatten(0, 1)

    def comparable(self, reference: Tensor, found: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return both, of as many tokens as were found: the graph's last layer may compute the class token alone."""
        return (reference[:, : found.shape[1]], found) if reference.ndim == found.ndim == 3 else (reference, found)

    def quantise(
        self, source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
    ) -> dict[str, Any]:
        """Write the dynamic int8 file of an fp32 one; the patches' convolution stays float."""
        from rmtkd_edge.families.dynamic_int8 import DynamicInt8, quantise_onnx

        how = DynamicInt8(reduce_range=options.reduce_range)
        quantise_onnx(source, target, how, calibration=calibration, threads=options.threads)
        return {**asdict(how), "calibration_rows": sum(len(batch["pixel_values"]) for batch in calibration)}


FAMILY = VitFamily()
