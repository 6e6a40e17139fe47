"""The family `mlp`: what rmtkd-edge asks of an architecture, answered for a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlp_family.spec import CHANNELS, MlpSpec, Shape, name
from rmtkd_edge.config.hardware import Calibration
from rmtkd_edge.config.recipe import Compress, Export, Recipe
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import AnalyseOptions, Batches, NarrowOptions, QuantiseOptions, Site

if TYPE_CHECKING:
    import onnx
    from rmtkd_edge.families.spectrum import SiteSpectrum
    from torch import Tensor, nn


class MlpFamily:
    """See rmtkd_edge.families.base.Family."""

    name = "mlp"
    modality = "image"
    curve: Literal["gemm", "conv"] = "gemm"
    samples = ("image",)
    sample_keys = "analyse.calibration"
    site_kinds = ("hidden",)
    default_sites = ("hidden",)
    modes = ("width",)
    shape = Shape

    # shapes and modules
    def spec_from_dict(self, data: Mapping[str, Any]) -> MlpSpec:
        tuples = {key: tuple(data[key]) for key in ("widths", "labels", "mean", "std")}
        return MlpSpec(**{**data, **tuples, "raw": dict(data["raw"])})

    def build(self, spec: MlpSpec) -> Any:
        from mlp_family.net import Mlp

        return Mlp(spec)

    def initialise(self, model: Any, seed: int) -> Any:
        from torch import Generator, nn

        generator = Generator().manual_seed(seed)
        for layer in [*model.layers, model.classifier]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        return model

    def load(self, recipe: Recipe, labels: Sequence[str], preprocessing: Any) -> tuple[Any, bool]:
        if recipe.model.source != "scratch":
            raise UserError(f"an mlp starts from `scratch`, not from {recipe.model.source}", "set model.source")
        widths = Shape.model_validate(recipe.model.shape).widths
        mean, std, size = tuple(preprocessing.mean), tuple(preprocessing.std), preprocessing.image_size
        return self.initialise(self.build(MlpSpec(widths, tuple(labels), size, mean, std)), recipe.seed), False

    def from_module(self, module: nn.Module, labels: Sequence[str] | None = None) -> Any | None:
        from torch import nn

        found = (
            [m for m in module if not isinstance(m, nn.Flatten | nn.ReLU)] if isinstance(module, nn.Sequential) else []
        )
        if len(found) < 2 or not all(isinstance(m, nn.Linear) for m in found):
            return None
        size, outputs = round((found[0].in_features / CHANNELS) ** 0.5), found[-1].out_features
        if CHANNELS * size**2 != found[0].in_features:
            return None
        names = tuple(labels or map(str, range(outputs)))
        model = self.build(MlpSpec(tuple(m.out_features for m in found[:-1]), names, size))
        for own, other in zip([*model.layers, model.classifier], found, strict=True):
            own.load_state_dict(other.state_dict())
        return model.eval()

    def source_normalisation(self, source: str) -> None:
        return None

    def describe_source(self, recipe: Recipe) -> str:
        return f"mlp {recipe.model.source}"

    # cutting
    def sites_to_cut(self, spec: MlpSpec, options: Compress) -> list[str]:
        return [site.name for site in spec.sites() if site.kind in (options.sites or self.default_sites)]

    def analyse(
        self, model: Any, sites: Sequence[Site], batches: Batches, effect: Batches | None, options: AnalyseOptions
    ) -> list[SiteSpectrum]:
        from mlp_family.net import analyse

        return analyse(model, sites, batches, effect, options)

    def settle(
        self, spec: MlpSpec, options: Compress, latency: Callable[[Any], float] | None, multiple: int
    ) -> Callable[[dict[str, int]], dict[str, int]]:
        return lambda ranks: ranks

    def narrow(
        self,
        model: Any,
        projections: Mapping[str, Tensor],
        batches: Batches,
        effect: Batches,
        options: NarrowOptions,
    ) -> Any:
        from mlp_family.net import narrow

        return narrow(model, projections, batches, options)

    def fold(self, model: Any) -> Any:
        from mlp_family.net import rebuild

        def change(place: str, layer: Any, state: dict[str, Tensor]) -> None:
            state[f"{place}.weight"], state[f"{place}.bias"] = (part.detach() for part in layer.folded())
            state.pop(f"{place}.projection", None)

        return rebuild(model, model.spec.without_projections(), change)

    def unfold(self, folded: Any, projections: Mapping[str, Tensor]) -> Any:
        from dataclasses import replace

        from mlp_family.net import rebuild

        def change(place: str, layer: Any, state: dict[str, Tensor]) -> None:
            p = projections.get(name(int(place.split(".")[1])))
            if p is not None:  # W' = P (P^T W'), since P P^T = I
                p = p.to(layer.weight)
                state[f"{place}.weight"], state[f"{place}.bias"] = (
                    p.T @ layer.weight.detach(),
                    p.T @ layer.bias.detach(),
                )
                state[f"{place}.projection"] = p

        raw = {site: p.shape[1] for site, p in projections.items()}
        return rebuild(folded, replace(folded.spec, raw=raw), change)

    def projections(self, model: Any) -> dict[str, Tensor]:
        return {name(i): layer.projection for i, layer in enumerate(model.layers) if layer.projection is not None}

    def predict_ms(self, spec: MlpSpec, curves: Calibration, sequence: int) -> float:
        pairs = zip(spec.sizes, spec.sizes[1:], strict=False)
        return sum(a * b * curves.ns_per_mac("gemm", (a * b) ** 0.5) for a, b in pairs) / 1e6

    # export
    def standardise(self, folded: Any) -> Any:
        return folded

    def config(self, spec: MlpSpec, task: str) -> dict[str, Any]:
        return {
            "model_type": spec.model_type,
            "num_channels": CHANNELS,
            "image_size": spec.image_size,
            "id2label": {str(i): label for i, label in enumerate(spec.labels)},
            "label2id": {label: i for i, label in enumerate(spec.labels)},
        }

    def tensors(self, model: Any) -> dict[str, Tensor]:
        return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}

    def from_tensors(self, spec: MlpSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def export(self, folded: Any, path: Path, options: Export, metadata: Mapping[str, str]) -> list[Path]:
        import torch
        from rmtkd_edge.families.onnx_program import export_module

        size = folded.spec.image_size
        sample = {"pixel_values": torch.zeros(2, CHANNELS, size, size)}
        axes = {"pixel_values": {0: "batch"}}
        return export_module(folded.eval(), path, sample, axes, opset=options.opset, metadata=metadata)

    def expected_ops(self, spec: MlpSpec, options: Export, stage: Literal["emitted", "fp32", "int8"]) -> dict[str, int]:
        products = len(spec.widths) + 1
        return {
            "emitted": {"Gemm": products, "Relu": products - 1},
            "fp32": {"Gemm or FusedGemm": products},
            "int8": {"QGemm": products},
        }[stage]

    def graph_values(self, model: onnx.ModelProto, spec: MlpSpec) -> dict[str, str]:
        products = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"]
        return {name(i): products[i] for i in range(len(spec.widths))}

    def site_of(self, tap: str) -> str:
        return tap

    def quantise(
        self, source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
    ) -> dict[str, Any]:
        from mlp_family.int8 import quantise

        images = [batch["pixel_values"].numpy() for batch in calibration]
        return quantise(source, target, images, options.reduce_range)


FAMILY = MlpFamily()
