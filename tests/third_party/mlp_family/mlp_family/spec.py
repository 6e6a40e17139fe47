"""The shape of a multilayer perceptron on flattened pixels as data; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from pydantic import Field

from rmtkd_edge.config.settings import Section
from rmtkd_edge.families.base import Input, Site

CHANNELS = 3


class Shape(Section):
    """Keys of `model.shape` in a recipe."""

    widths: tuple[int, ...] = Field((128, 64), min_length=1, description="Units of each hidden layer")


@dataclass(frozen=True)
class MlpSpec:
    """Hidden widths, and the image size and labels that input and output follow."""

    widths: tuple[int, ...]
    labels: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    raw: Mapping[str, int] = field(default_factory=dict)
    family: str = "mlp"
    model_type: str = "mlp"
    max_length: int | None = None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return the one input, images of a fixed size."""
        return (Input("pixel_values", "float32", ("batch", CHANNELS, self.image_size, self.image_size)),)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the widths of input, hidden layers and output."""
        return (CHANNELS * self.image_size**2, *self.widths, len(self.labels))

    def example_inputs(self, batch: int, sequence: int | None, seed: int) -> dict[str, np.ndarray]:
        """Return random images."""
        shape = (batch, CHANNELS, self.image_size, self.image_size)
        return {"pixel_values": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}

    def sites(self) -> list[Site]:
        """Return one site a hidden layer."""
        return [Site(name(i), "hidden", w, layer=i, selectable=True) for i, w in enumerate(self.widths)]

    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        """Return the spec with every named site set to its rank."""
        return replace(self, widths=tuple(ranks.get(name(i), w) for i, w in enumerate(self.widths)))

    def without_projections(self) -> Self:
        """Return the spec of the folded model."""
        return replace(self, raw={})

    def count_parameters(self) -> int:
        """Return the number of weights and biases of the folded model."""
        return sum((before + 1) * after for before, after in zip(self.sizes, self.sizes[1:], strict=False))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def name(layer: int) -> str:
    """Return the name of a hidden layer's site, which is its tap too."""
    return f"hidden.{layer}"
