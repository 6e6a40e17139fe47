"""The shape of a vision transformer as data: every width that a compression may change, and nothing that it may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from rmtkd_edge.families.base import Site
from rmtkd_edge.families.images import CHANNELS, ImageSpec
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD
from rmtkd_edge.families.transformer_spec import LayerSpec

Pool = Literal["class", "mean"]


@dataclass(frozen=True)
class VitSpec(ImageSpec):
    """A vision transformer whose layers may all have different widths.

    Attributes:
        patch: pixels a side of a patch.
        tokens: in front of the patches: the class token, and DeiT's distillation token.
        pool: what the classifier reads of the last state: its first token, or the mean of the patches.
        image_size: height and width, in pixels, of the images.
        mean: of each channel, of pixels as shares of 255, that inputs are normalised with; `std` as well.
        raw: for a site whose producers still carry a fixed projection, the width before that projection.
    """

    family: ClassVar[str] = "vit"
    width: int
    layers: tuple[LayerSpec, ...]
    labels: tuple[str, ...]
    model_type: str = "vit"
    patch: int = 16
    tokens: int = 1
    pool: Pool = "class"
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    activation: str = "gelu"
    eps: float = 1e-6
    dropout: float = 0.0
    raw: Mapping[str, int] = field(default_factory=dict)

    @property
    def patches(self) -> int:
        """Return the number of patches of an image."""
        return (self.image_size // self.patch) ** 2

    @property
    def positions(self) -> int:
        """Return the length of the sequence: tokens and patches."""
        return self.tokens + self.patches

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep; the stream, which all layers share, comes first."""
        sites = [Site("stream", "stream", self.width, basis="eigen")]  # the warm start chooses its basis
        for i, layer in enumerate(self.layers):
            sites += [
                Site(f"layer.{i}.qk", "qk", layer.qk, layer.heads, i, basis="eigen"),
                Site(f"layer.{i}.value", "value", layer.value, layer.heads, i, basis="eigen"),
                Site(f"layer.{i}.ffn", "ffn", layer.ffn, 1, i, selectable=True, weighted=False),
            ]
        return sites

    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        """Return the spec with every named site set to its rank (a head's width for qk and value sites)."""
        layers = tuple(
            replace(
                layer,
                qk=ranks.get(f"layer.{i}.qk", layer.qk),
                value=ranks.get(f"layer.{i}.value", layer.value),
                ffn=ranks.get(f"layer.{i}.ffn", layer.ffn),
            )
            for i, layer in enumerate(self.layers)
        )
        return replace(self, layers=layers, width=ranks.get("stream", self.width))

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model, position embeddings counted."""
        return self.count_body_parameters() + (self.width + 1) * len(self.labels)

    def count_body_parameters(self) -> int:
        """Return the parameters without those of the classifier."""
        d = self.width
        total = (CHANNELS * self.patch**2 + 1) * d + (self.tokens + self.positions) * d + 2 * d
        for layer in self.layers:
            qk, value = layer.heads * layer.qk, layer.heads * layer.value
            total += 2 * (d + 1) * qk + (d + 1) * value + (value + 1) * d
            total += (d + 1) * layer.ffn + (layer.ffn + 1) * d + 4 * d
        return total

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote."""
        return super().from_dict({**data, "layers": tuple(LayerSpec(**layer) for layer in data["layers"])})


def even_layers(count: int, heads: int, width: int, ffn: int) -> tuple[LayerSpec, ...]:
    """Return layers that are all the same, whose heads share the width."""
    head = width // heads
    return (LayerSpec(heads, head, head, ffn, head**-0.5),) * count
