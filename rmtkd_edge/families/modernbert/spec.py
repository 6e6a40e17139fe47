"""The shape of a ModernBERT classifier as data: every width that a compression may change, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from rmtkd_edge.config.settings import Head
from rmtkd_edge.families.base import Input, Site
from rmtkd_edge.families.transformer_spec import pad_rows

MODEL_TYPE = "modernbert"
Pooling = Literal["cls", "mean"]


@dataclass(frozen=True)
class LayerSpec:
    """One layer.

    Attributes:
        head, value: widths of a head: of query and key, which rotary positions turn in pairs, and of the value.
        local: attention looks no further than the window.
        normed: a norm precedes attention; in the first layer of transformers' models none does.
    """

    heads: int
    head: int
    value: int
    ffn: int
    local: bool
    normed: bool


@dataclass(frozen=True)
class ModernBertSpec:
    """A ModernBERT sequence classifier whose layers may all have different widths.

    Attributes:
        window: how many tokens to either side local attention looks.
        global_theta, local_theta: bases of the rotary frequencies.
        raw: for a site whose producers still carry a fixed projection, the width before that projection.
    """

    vocab: int
    positions: int
    width: int
    layers: tuple[LayerSpec, ...]
    pooler_width: int
    labels: tuple[str, ...]
    window: int = 64
    global_theta: float = 160_000.0
    local_theta: float = 10_000.0
    pooling: Pooling = "cls"
    activation: str = "gelu"
    pooler_activation: str = "gelu"
    eps: float = 1e-5
    pad_id: int = 0
    dropout: float = 0.0
    attention_bias: bool = False
    ffn_bias: bool = False
    norm_bias: bool = False
    pooler_bias: bool = False
    raw: Mapping[str, int] = field(default_factory=dict)
    family: str = MODEL_TYPE

    @property
    def head(self) -> Head:
        """Return `row`: one classifier for a whole row."""
        return "row"

    @property
    def outputs(self) -> int:
        """Return one value for each label."""
        return len(self.labels)

    @property
    def model_type(self) -> str:
        """Return transformers' name of the architecture."""
        return MODEL_TYPE

    @property
    def max_length(self) -> int:
        """Return the longest sequence in tokens."""
        return self.positions

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return token ids and mask."""
        return tuple(Input(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))

    def example_inputs(self, batch: int, sequence: int | None, seed: int) -> dict[str, np.ndarray]:
        """Return random token ids (batch, sequence) with a full mask, int64."""
        shape = (batch, sequence or self.max_length)
        ids = np.random.default_rng([seed, *shape]).integers(0, self.vocab, shape, dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}

    def padded_inputs(self, batch: int, sequence: int, seed: int) -> dict[str, np.ndarray]:
        """Return `example_inputs` whose rows are shorter from one to the next, the last one with half of the tokens."""
        return pad_rows(self.example_inputs(batch, sequence, seed), self.pad_id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "model_type": MODEL_TYPE}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModernBertSpec:
        """Return the spec that `to_dict` wrote."""
        own = {name: value for name, value in data.items() if name != "model_type"}
        layers = tuple(LayerSpec(**layer) for layer in data["layers"])
        return cls(**{**own, "layers": layers, "labels": tuple(data["labels"]), "raw": dict(data["raw"])})

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep; the stream, which all layers share, comes first.

        Queries and keys are not among them: rotary positions turn fixed pairs of their channels.
        """
        sites = [Site("stream", "stream", self.width)]
        for i, layer in enumerate(self.layers):
            sites += [
                Site(f"layer.{i}.value", "value", layer.value, layer.heads, i, basis="eigen"),
                Site(f"layer.{i}.ffn", "ffn", layer.ffn, 1, i, selectable=True, weighted=False),
            ]
        return [*sites, Site("pooler", "pooler", self.pooler_width)]

    def with_ranks(self, ranks: Mapping[str, int]) -> ModernBertSpec:
        """Return the spec with every named site set to its rank (a head's width for value sites)."""
        layers = tuple(
            replace(
                layer,
                value=ranks.get(f"layer.{i}.value", layer.value),
                ffn=ranks.get(f"layer.{i}.ffn", layer.ffn),
            )
            for i, layer in enumerate(self.layers)
        )
        width, pooler = ranks.get("stream", self.width), ranks.get("pooler", self.pooler_width)
        return replace(self, layers=layers, width=width, pooler_width=pooler)

    def with_projections(self, raw: Mapping[str, int]) -> ModernBertSpec:
        """Return the spec with projections after producers, by site the width before them."""
        return replace(self, raw=raw)

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model, the word table counted."""
        return self.count_body_parameters() + self.vocab * self.width + (self.pooler_width + 1) * len(self.labels)

    def count_body_parameters(self) -> int:
        """Return the parameters without the word table and the classifier."""
        d, bias = self.width, int(self.attention_bias)
        norms = 2 + sum(1 + layer.normed for layer in self.layers)
        total = (norms * d + self.pooler_width) * (1 + self.norm_bias)
        for layer in self.layers:
            qk, value = layer.heads * layer.head, layer.heads * layer.value
            total += (d + bias) * (2 * qk + value) + (value + bias) * d
            total += 2 * (d + self.ffn_bias) * layer.ffn + (layer.ffn + self.ffn_bias) * d
        return total + (d + self.pooler_bias) * self.pooler_width
