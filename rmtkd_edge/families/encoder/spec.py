"""The shape of a model as data: every width that a compression may change, and nothing that it may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

SITE_KINDS = ("stream", "words", "qk", "value", "ffn", "head", "inner", "factor")


@dataclass(frozen=True)
class Site:
    """A width that can be cut; `width` counts one head's channels where `heads` > 1.

    A `latent` one is not there yet: cutting it puts two thin layers in place of one.
    """

    name: str
    kind: str
    width: int
    heads: int = 1
    layer: int | None = None
    latent: bool = False


class Spec(Protocol):
    """The shape of a model of any family."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def model_type(self) -> str: ...
    def sites(self) -> list[Site]: ...
    def with_ranks(self, ranks: Mapping[str, int]) -> Self: ...
    def count_parameters(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class LayerSpec:
    """One transformer layer: `qk` and `value` are widths of a head, `scale` multiplies the attention scores."""

    heads: int
    qk: int
    value: int
    ffn: int
    scale: float


@dataclass(frozen=True)
class EncoderSpec:
    """A BERT-like sequence classifier whose layers may all have different widths.

    `raw` names, for a site whose producers still carry a fixed projection, the width in front of that projection.
    `words` is the word table's own width where a linear map stands behind the table (Lan et al. 2020, ALBERT, but in
    front of the norm); None where the table is as wide as what it is added to.
    """

    model_type: str
    vocab: int
    positions: int
    type_vocab: int
    width: int
    layers: tuple[LayerSpec, ...]
    head_width: int
    labels: tuple[str, ...]
    embedding: int | None = None
    activation: str = "gelu"
    head_activation: str = "tanh"
    eps: float = 1e-12
    pad_id: int = 0
    position_offset: int = 0
    dropout: float = 0.1
    raw: Mapping[str, int] = field(default_factory=dict)
    words: int | None = None

    @property
    def max_length(self) -> int:
        """Return the longest sequence, in tokens, that the position embeddings allow."""
        return self.positions - self.position_offset

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> EncoderSpec:
        """Return the spec that `to_dict` wrote."""
        layers = tuple(LayerSpec(**layer) for layer in data["layers"])
        return EncoderSpec(**{**data, "layers": layers, "labels": tuple(data["labels"]), "raw": dict(data["raw"])})

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep; the stream, which all layers share, comes first."""
        table = self.words or self.embedding or self.width
        sites = [Site("stream", "stream", self.width), Site("words", "words", table, latent=self.words is None)]
        for i, layer in enumerate(self.layers):
            sites.append(Site(f"layer.{i}.qk", "qk", layer.qk, layer.heads, i))
            sites.append(Site(f"layer.{i}.value", "value", layer.value, layer.heads, i))
            sites.append(Site(f"layer.{i}.ffn", "ffn", layer.ffn, 1, i))
        return [*sites, Site("head", "head", self.head_width)]

    def with_ranks(self, ranks: Mapping[str, int]) -> EncoderSpec:
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
        width, head = ranks.get("stream", self.width), ranks.get("head", self.head_width)
        words = ranks.get("words", self.words)
        words = words if words is not None and words < (self.embedding or width) else None
        return replace(self, layers=layers, width=width, head_width=head, words=words)

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model, embeddings and position table counted."""
        d, e = self.width, self.embedding or self.width
        total = (self.positions + self.type_vocab) * e + 2 * e
        total += self.vocab * e if self.words is None else self.vocab * self.words + (self.words + 1) * e
        if self.embedding is not None:
            total += e * d + d
        for layer in self.layers:
            qk, value = layer.heads * layer.qk, layer.heads * layer.value
            total += 2 * (d + 1) * qk + (d + 1) * value + (value + 1) * d
            total += (d + 1) * layer.ffn + (layer.ffn + 1) * d + 4 * d
        return total + (d + 1) * self.head_width + (self.head_width + 1) * len(self.labels)


S = TypeVar("S", bound=Spec)


def list_sites(spec: Spec, kinds: tuple[str, ...] | list[str] = SITE_KINDS) -> list[Site]:
    """Return the sites of the wanted kinds, shallow to deep."""
    return [site for site in spec.sites() if site.kind in kinds]


def with_ranks(spec: S, ranks: Mapping[str, int]) -> S:
    """Return the spec with every named site set to its rank (a head's width for sites with heads)."""
    return spec.with_ranks(ranks)


def ranks_of(spec: Spec) -> dict[str, int]:
    """Return the present width of every site by name (of the factors those that are there)."""
    return {site.name: site.width for site in spec.sites() if not site.latent}


def count_parameters(spec: Spec) -> int:
    """Return the number of trained parameters of the folded model."""
    return spec.count_parameters()
