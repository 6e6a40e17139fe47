"""The family `mlp`: a multilayer perceptron on flattened pixels. Its shape is here, its torch code in net.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from rmtkd_edge.config.settings import Section
from rmtkd_edge.families.base import Input, Site, list_sites
from rmtkd_edge.families.defaults import FamilyDefaults, SpecDefaults


class Shape(Section):
    """Keys of `model.shape` in a recipe."""

    widths: tuple[int, ...] = Field((128, 64), min_length=1, description="Units of each hidden layer")


@dataclass(frozen=True)
class MlpSpec(SpecDefaults):
    """Hidden widths, and what input and output follow."""

    family: ClassVar[str] = "mlp"
    widths: tuple[int, ...]
    labels: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw: Mapping[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (Input("pixel_values", "float32", ("batch", 3, self.image_size, self.image_size)),)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (3 * self.image_size**2, *self.widths, len(self.labels))

    def sites(self) -> list[Site]:
        return [Site(f"hidden.{i}", "hidden", width, selectable=True) for i, width in enumerate(self.widths)]

    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        return replace(self, widths=tuple(ranks.get(site.name, site.width) for site in self.sites()))

    def count_parameters(self) -> int:
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.sizes))


class MlpFamily(FamilyDefaults):
    """Torch is imported in the methods: a recipe or a report does not wait for it."""

    name = "mlp"
    modality = "image"
    default_task = "image-classification"
    curve: Literal["gemm", "conv"] = "gemm"
    samples = ("image",)
    site_kinds = default_sites = ("hidden",)
    shape = Shape
    spec = MlpSpec

    def build(self, spec: MlpSpec) -> Any:
        from mlp_family.net import Mlp

        return Mlp(spec)

    def initialise(self, model: Any, seed: int) -> Any:
        from mlp_family.net import initialise

        return initialise(model, seed)

    def load(self, recipe: Any, labels: Sequence[str], preprocessing: Any) -> tuple[Any, bool]:
        widths = Shape.model_validate(recipe.model.shape).widths
        spec = MlpSpec(widths, tuple(labels), preprocessing.image_size, preprocessing.mean, preprocessing.std)
        return self.initialise(self.build(spec), recipe.seed), False  # random weights: it is trained first

    def producers(self, model: Any) -> dict[str, list[Any]]:
        return {site.name: [layer] for site, layer in zip(list_sites(model.spec), model.layers, strict=False)}

    def analyse(self, model: Any, sites: Any, batches: Any, effect: Any, options: Any) -> list[Any]:
        from mlp_family.net import F
        from rmtkd_edge.families.sampled import OneTap, analyse_samples

        return analyse_samples(model, OneTap(F.relu), sites, batches, effect, options)

    def narrow(self, model: Any, projections: Any, batches: Any, effect: Any, options: Any) -> Any:
        from mlp_family.net import narrow

        return narrow(model, projections, batches, options.compress.ridge)

    def predict_ms(self, spec: MlpSpec, curves: Any, sequence: int) -> float:
        return sum(a * b * curves.ns_per_mac("gemm", (a * b) ** 0.5) for a, b in pairwise(spec.sizes)) / 1e6

    def expected_ops(self, spec: MlpSpec, options: Any, stage: str) -> dict[str, int]:
        products = {"emitted": "Gemm", "fp32": "Gemm or FusedGemm", "int8": "QGemm"}
        return {products[stage]: len(spec.sizes) - 1}

    def graph_values(self, model: Any, spec: MlpSpec) -> dict[str, str]:
        products = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"]
        return {site.name: value for site, value in zip(spec.sites(), products, strict=False)}


FAMILY = MlpFamily()
