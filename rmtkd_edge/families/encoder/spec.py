"""The shape of a BERT-like encoder as data: every width that a compression may change, and nothing that it may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from rmtkd_edge.config.settings import Head
from rmtkd_edge.families.base import Input, Site
from rmtkd_edge.families.transformer_spec import LayerSpec, pad_rows

ROBERTA = ("roberta", "xlm-roberta", "camembert")  # one architecture under three names
DEBERTA = "deberta-v2"  # also of DeBERTa-v3
MODEL_TYPES = ("bert", *ROBERTA, "distilbert", "electra", "mpnet", "albert", DEBERTA)
RELATIVE_BUCKETS = 32  # of distances between tokens, see positions.py


def tap_of(name: str, number: int) -> str:
    """Return the tap of what `name` sees in a pass through the layers, from 0."""
    return f"pass.{number}.{name}" if number else name


@dataclass(frozen=True)
class Disentangled:
    """Attention between tokens and distances (DeBERTa), see distances.py.

    Attributes:
        span: half of the table's rows.
        buckets: of distances, wider ones for farther distances; 0 where each distance up to the span has its own.
        farthest: the distance that the last bucket ends at.
        shared: distances have their queries and keys from the layers that tokens have.
        c2p, p2c: tokens look at distances, distances at tokens.
    """

    span: int
    buckets: int
    farthest: int
    shared: bool
    c2p: bool
    p2c: bool


@dataclass(frozen=True)
class EncoderSpec:
    """A BERT-like encoder with a head, whose layers may all have different widths.

    Attributes:
        raw: for a site whose producers still carry a fixed projection, the width before that projection.
        embedding_size: width of the embeddings where a linear map to the stream follows their norm (ELECTRA, ALBERT).
        embedding_rank: the word table's own width where a linear map follows the table (Lan et al. 2020, ALBERT, but
            before the norm); None where the table is as wide as what it is added to.
        repeats: how often the layers are run, one pass after the other (ALBERT: all layers are one).
        relative_positions: distances between tokens bias the attention scores, the same in all layers (MPNet).
        position_table: positions have embeddings of their own, which are added to the words'.
        head: `row` has a pooler on the first token and a classifier, `token` a classifier alone, `embedding` neither.
        pooling, normalised: of an embedding: the mean over tokens or the first one, of length 1 or as it is.
        embedding_width: of an embedding that a linear map gives the width which it had before the stream was cut; None
            where it is as wide as the stream.
    """

    model_type: str
    vocab: int
    positions: int
    type_vocab: int
    width: int
    layers: tuple[LayerSpec, ...]
    pooler_width: int
    labels: tuple[str, ...]
    embedding_size: int | None = None
    activation: str = "gelu"
    pooler_activation: str = "tanh"
    eps: float = 1e-12
    pad_id: int = 0
    position_offset: int = 0
    dropout: float = 0.1
    raw: Mapping[str, int] = field(default_factory=dict)
    embedding_rank: int | None = None
    relative_positions: bool = False
    repeats: int = 1
    head: Head = "row"
    pooling: Literal["mean", "cls"] = "mean"
    normalised: bool = True
    embedding_width: int | None = None
    position_table: bool = True
    disentangled: Disentangled | None = None
    family: str = "encoder"

    @property
    def classifier(self) -> tuple[int, int] | None:
        """Return the inputs and outputs of the last linear layer, None where there is none."""
        if self.head == "embedding":
            return None if self.embedding_width is None else (self.width, self.embedding_width)
        return self.pooler_width if self.head == "row" else self.width, len(self.labels)

    @property
    def outputs(self) -> int:
        """Return how many values a row, or a token of it, gets."""
        return self.width if self.classifier is None else self.classifier[1]

    @property
    def max_length(self) -> int:
        """Return the longest sequence, in tokens, that the positions allow."""
        return self.positions - self.position_offset

    @property
    def terms(self) -> int:
        """Return how many products make an attention score."""
        found = self.disentangled
        return 1 if found is None else 1 + found.c2p + found.p2c

    @property
    def blank_padding(self) -> bool:
        """Return whether padding is zero in the first state and attends to everything, as in transformers' DeBERTa."""
        return self.model_type == DEBERTA

    @property
    def depth(self) -> int:
        """Return how many layers a state goes through, shared ones counted as often as they are run."""
        return len(self.layers) * self.repeats

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return the model's inputs: one with fewer than two token types reads no token_type_ids."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self.type_vocab > 1 else [])]
        return tuple(Input(name, "int64", ("batch", "sequence"), name == "token_type_ids") for name in names)

    def example_inputs(self, batch: int, sequence: int | None, seed: int) -> dict[str, np.ndarray]:
        """Return random token ids (batch, sequence) with a full mask, int64."""
        shape = (batch, sequence or self.max_length)
        ids = np.random.default_rng([seed, *shape]).integers(0, self.vocab, shape, dtype=np.int64)
        values = {
            "input_ids": ids,
            "attention_mask": np.ones(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        return {item.name: values[item.name] for item in self.inputs}

    def padded_inputs(self, batch: int, sequence: int, seed: int) -> dict[str, np.ndarray]:
        """Return `example_inputs` whose rows are shorter from one to the next, the last one with half of the tokens."""
        return pad_rows(self.example_inputs(batch, sequence, seed), self.pad_id)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderSpec:
        """Return the spec that `to_dict` wrote."""
        layers, distances = tuple(LayerSpec(**layer) for layer in data["layers"]), data.get("disentangled")
        parts = {"layers": layers, "labels": tuple(data["labels"]), "raw": dict(data["raw"])}
        return EncoderSpec(**{**data, **parts, "disentangled": distances and Disentangled(**distances)})

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep; the stream, which all layers share, comes first."""
        table = self.embedding_rank or self.embedding_size or self.width
        sites = [
            Site("stream", "stream", self.width),
            Site("embedding", "embedding", table, latent=self.embedding_rank is None, basis="eigen"),
        ]
        for i, layer in enumerate(self.layers):
            sites += [
                Site(f"layer.{i}.qk", "qk", layer.qk, layer.heads, i, basis="eigen"),
                Site(f"layer.{i}.value", "value", layer.value, layer.heads, i, basis="eigen"),
                Site(f"layer.{i}.ffn", "ffn", layer.ffn, 1, i, selectable=True, weighted=False),
            ]
        return [*sites, Site("pooler", "pooler", self.pooler_width)] if self.head == "row" else sites

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
        width, pooler = ranks.get("stream", self.width), ranks.get("pooler", self.pooler_width)
        table = ranks.get("embedding", self.embedding_rank)
        table = table if table is not None and table < (self.embedding_size or width) else None
        found = replace(self, layers=layers, width=width, pooler_width=pooler, embedding_rank=table)
        if self.head == "embedding" and width < self.width and self.embedding_width is None:
            return replace(found, embedding_width=self.width)  # who compares embeddings need not know of the cut
        return found

    def with_projections(self, raw: Mapping[str, int]) -> EncoderSpec:
        """Return the spec with projections after producers, by site the width before them."""
        return replace(self, raw=raw)

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model, embeddings and position table counted."""
        inputs, outputs = self.classifier or (0, 0)
        return self.count_body_parameters() + self._word_table() + (inputs + 1) * outputs

    def count_body_parameters(self) -> int:
        """Return the parameters without the word table (both factors of one that was cut) and the classifier."""
        d, e = self.width, self.embedding_size or self.width
        total = (self.positions * self.position_table + self.type_vocab) * e + 2 * e
        if self.embedding_size is not None:
            total += e * d + d
        if self.relative_positions:
            total += RELATIVE_BUCKETS * self.layers[0].heads
        own = 0  # layers that distances have for themselves
        if self.disentangled is not None:
            total += 2 * self.disentangled.span * d
            own = 0 if self.disentangled.shared else self.terms - 1
        for layer in self.layers:
            qk, value = layer.heads * layer.qk, layer.heads * layer.value
            total += (2 + own) * (d + 1) * qk + (d + 1) * value + (value + 1) * d
            total += (d + 1) * layer.ffn + (layer.ffn + 1) * d + 4 * d
        return total + ((d + 1) * self.pooler_width if self.head == "row" else 0)

    def _word_table(self) -> int:
        e, rank = self.embedding_size or self.width, self.embedding_rank
        return self.vocab * e if rank is None else self.vocab * rank + (rank + 1) * e
