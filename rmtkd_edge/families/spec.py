"""The shape of a model as data: widths that can be cut, inputs, and what is asked of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from rmtkd_edge.config.settings import Head

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Basis = Literal["axes", "eigen"]


@dataclass(frozen=True)
class Site:
    """A width that can be cut.

    Attributes:
        width: channels, of one head where `heads` > 1.
        layer: the layer that it belongs to, from 0 where layers can be left out; None for what all layers share.
        latent: the width is not there yet: cutting it puts two thin layers in place of one.
        selectable: channels can be kept as they are, since an elementwise function follows.
        weighted: its edge comes from the spectrum weighted by the effect on the output, where that is asked for.
        basis: `axes` where an elementwise function or norm follows, so that the kept basis is turned towards the axes.
    """

    name: str
    kind: str
    width: int
    heads: int = 1
    layer: int | None = None
    latent: bool = False
    selectable: bool = False
    weighted: bool = True
    basis: Basis = "axes"


@dataclass(frozen=True)
class Input:
    """One input of a model: its name, dtype, and shape with named axes where it is dynamic.

    Attributes:
        optional: a user's batch may lack it; zeros of the first input's shape replace it then.
    """

    name: str
    dtype: Literal["int64", "float32"]
    shape: tuple[int | str, ...]
    optional: bool = False


class Spec(Protocol):
    """The shape of a model as data; imports no torch."""

    @property
    def family(self) -> str: ...
    @property
    def model_type(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def head(self) -> Head:
        """Return what the outputs are: (B, labels) for rows, (B, T, labels) for tokens, or embeddings (B, width)."""

    @property
    def outputs(self) -> int:
        """Return how many values a row, or a token of it, gets."""

    @property
    def raw(self) -> Mapping[str, int]:
        """Return the width before the projection of every site whose producers still carry a fixed one."""

    @property
    def max_length(self) -> int | None:
        """Return the longest sequence in tokens, None for a model that reads no sequences."""

    @property
    def dropout(self) -> float:
        """Return the probability that a teacher is trained with."""

    @property
    def inputs(self) -> tuple[Input, ...]: ...
    def example_inputs(self, batch: int, sequence: int | None, seed: int) -> dict[str, np.ndarray]:
        """Return random valid inputs by name, as latency is measured on."""

    def padded_inputs(self, batch: int, sequence: int, seed: int) -> dict[str, np.ndarray]:
        """Return random valid inputs by name whose rows differ in length, as outputs are compared on.

        Only called of a model that reads sequences.
        """

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep."""

    def with_ranks(self, ranks: Mapping[str, int]) -> Self:
        """Return the spec with every named site set to its rank (of a head for sites with heads)."""

    def with_projections(self, raw: Mapping[str, int]) -> Self:
        """Return the spec with projections after producers, by site the width before them; {} for a folded model."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote."""

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model."""

    def count_body_parameters(self) -> int | None:
        """Return those without the word table and the classifier, None where the family does not tell them apart."""

    def to_dict(self) -> dict[str, Any]: ...


def list_sites(spec: Spec, kinds: Sequence[str] | None = None) -> list[Site]:
    """Return the sites of the wanted kinds (all by default), shallow to deep."""
    return [site for site in spec.sites() if kinds is None or site.kind in kinds]


def ranks_of(spec: Spec) -> dict[str, int]:
    """Return the present width of every site by name (of latent ones those that are there)."""
    return {site.name: site.width for site in spec.sites() if not site.latent}


def ranks_from(spec: Spec, projections: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the rank (of a head) that each projection leaves."""
    return {s.name: len(projections[s.name]) // s.heads for s in list_sites(spec) if s.name in projections}


def raw_from(spec: Spec, projections: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the width (of a head) before each projection, shallow to deep."""
    return {s.name: projections[s.name].shape[1] // s.heads for s in list_sites(spec) if s.name in projections}
