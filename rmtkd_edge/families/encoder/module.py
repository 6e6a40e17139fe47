"""A BERT-like sequence classifier with free widths: the one module that is trained, narrowed, folded and exported.

It computes what transformers' BERT, RoBERTa, DistilBERT and ELECTRA classifiers compute (tests compare them), but a
layer may have its own query/key, value and FFN widths, and the residual stream need not be a multiple of the heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, list_sites, with_ranks

Tap = Callable[[str, Tensor], None]
Attention = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int, scale: float) -> Tensor:
    """Return softmax(scale q k^T) v, head by head.

    q, k (B, T, heads * r), v (B, T, heads * p), mask bool (B, T), true where a token is; returns (B, T, heads * p).
    """
    batch, length = mask.shape
    q, k, v = (x.view(batch, length, heads, -1).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], scale=scale)
    return out.transpose(1, 2).reshape(batch, length, -1)


class ProjectedLinear(nn.Module):
    """A linear layer with, where its output site was cut, a fixed projection P (k x d, orthonormal rows) behind it."""

    projection: Tensor | None

    def __init__(self, inputs: int, outputs: int, raw: int | None = None) -> None:
        super().__init__()
        wide = outputs if raw is None else raw
        self.weight = nn.Parameter(torch.empty(wide, inputs))
        self.bias = nn.Parameter(torch.empty(wide))
        self.register_buffer("projection", None if raw is None else torch.empty(outputs, wide))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the weight (k, in) and bias (k,) of the one narrow layer that this one equals."""
        if self.projection is None:
            return self.weight, self.bias
        return self.projection @ self.weight, self.projection @ self.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., k); P W is formed first, which costs less than projecting every token."""
        return F.linear(x, *self.folded())


class Embeddings(nn.Module):
    """Word, position and type embeddings, their norm, and ELECTRA's linear map from a smaller embedding width.

    `expand` maps a word table of a width of its own, cut by the fixed `word_projection`, to the others' width.
    """

    projection: Tensor | None
    word_projection: Tensor | None

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        raw = spec.raw.get("stream")
        width = spec.embedding or spec.width
        wide = raw if raw is not None and spec.embedding is None else width
        self.pad_id, self.position_offset = spec.pad_id, spec.position_offset
        raw_words = spec.raw.get("words") if spec.words is not None else None
        self.word = nn.Embedding(spec.vocab, raw_words or spec.words or wide)
        words = None if raw_words is None or spec.words is None else torch.empty(spec.words, raw_words)
        self.register_buffer("word_projection", words)
        self.expand = None if spec.words is None else ProjectedLinear(spec.words, wide)
        self.position = nn.Embedding(spec.positions, wide)
        self.token_type = nn.Embedding(spec.type_vocab, wide) if spec.type_vocab else None
        self.norm = nn.LayerNorm(width, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)
        self.register_buffer("projection", None if wide == width else torch.empty(width, wide))
        self.project = None if spec.embedding is None else ProjectedLinear(spec.embedding, spec.width, raw)

    def words(self, ids: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the word embeddings (B, T, width); `tap` sees what the table gives."""
        found = self.word(ids)
        if self.word_projection is not None:
            found = found @ self.word_projection.T
        if tap is not None:
            tap("words", found)
        return found if self.expand is None else self.expand(found)

    def summed(self, ids: Tensor, types: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Return the sum of the embeddings in front of the norm, (B, T, width)."""
        if self.position_offset:
            real = (ids != self.pad_id).long()
            positions = torch.cumsum(real, 1) * real + self.pad_id
        else:
            positions = torch.arange(ids.shape[1], device=ids.device)
        total = self.words(ids, tap) + self.position(positions)
        if self.token_type is not None:
            if types is not None and len(self.token_type.weight) < 2:
                types = None  # a pair's second type has no embedding of its own (RoBERTa)
            total = total + self.token_type(torch.zeros_like(ids) if types is None else types)
        return total if self.projection is None else total @ self.projection.T

    def forward(self, ids: Tensor, types: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Map token and type ids (B, T) to the first state of the residual stream."""
        state = self.dropout(self.norm(self.summed(ids, types, tap)))
        return state if self.project is None else self.project(state)


class EncoderLayer(nn.Module):
    """Attention and feed-forward network, each followed by a residual add and a norm (post-LayerNorm)."""

    def __init__(self, spec: EncoderSpec, layer: LayerSpec, name: str) -> None:
        super().__init__()
        d, raw, heads = spec.width, spec.raw, layer.heads
        qk_raw = None if f"{name}.qk" not in raw else heads * raw[f"{name}.qk"]
        value_raw = None if f"{name}.value" not in raw else heads * raw[f"{name}.value"]
        self.heads, self.scale, self.name = heads, layer.scale, name
        self.attention: Attention = sdpa_attention
        self.activation = ACTIVATIONS[spec.activation]
        self.query = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.key = ProjectedLinear(d, heads * layer.qk, qk_raw)
        self.value = ProjectedLinear(d, heads * layer.value, value_raw)
        self.out = ProjectedLinear(heads * layer.value, d, raw.get("stream"))
        self.norm1 = nn.LayerNorm(d, eps=spec.eps)
        self.up = ProjectedLinear(d, layer.ffn, raw.get(f"{name}.ffn"))
        self.down = ProjectedLinear(layer.ffn, d, raw.get("stream"))
        self.norm2 = nn.LayerNorm(d, eps=spec.eps)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor, mask: Tensor, tap: Tap | None = None) -> Tensor:
        """Map a state (B, T, d) to the next one; `tap(name, tensor)` sees every site on the way."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        context = self.attention(q, k, v, mask, self.heads, self.scale)
        if tap is not None:
            for part, tensor in (("q", q), ("k", k), ("value", context)):
                tap(f"{self.name}.{part}", tensor)
        x = self.norm1(x + self.dropout(self.out(context)))
        inner = self.up(x)
        hidden = self.activation(inner)
        if tap is not None:
            tap(f"{self.name}.mid", x)
            tap(f"{self.name}.ffn", inner)
        return self.norm2(x + self.dropout(self.down(hidden)))


class Encoder(nn.Module):
    """The classifier: embeddings, layers, a dense head on the first token, a linear classifier."""

    inputs = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        for name in (spec.activation, spec.head_activation):
            if name not in ACTIVATIONS:
                raise UserError(f"the activation `{name}` is not known", f"known: {', '.join(ACTIVATIONS)}")
        self.spec = spec
        self.embeddings = Embeddings(spec)
        self.layers: list[EncoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            EncoderLayer(spec, s, f"layer.{i}") for i, s in enumerate(spec.layers)
        )
        self.head = ProjectedLinear(spec.width, spec.head_width, spec.raw.get("head"))
        self.head_activation = ACTIVATIONS[spec.head_activation]
        self.classifier = ProjectedLinear(spec.head_width, len(spec.labels))
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, tap: Tap | None = None
    ) -> Tensor:
        """Return logits (B, labels) for token ids and mask (B, T), int64."""
        state = self.states(input_ids, attention_mask, token_type_ids, tap)
        inner = self.head(self.dropout(state[:, 0]))
        if tap is not None:
            tap("head", inner)
        return self.classifier(self.dropout(self.head_activation(inner)))

    def states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tap: Tap | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """Return the residual stream (B, T, d) behind the last layer, or behind the first `layers` of them."""
        mask = attention_mask.bool()
        state = self.embeddings(input_ids, token_type_ids, tap)
        if tap is not None:
            tap("stream.0", state)
        for i, layer in enumerate(self.layers if layers is None else self.layers[:layers]):
            state = layer(state, mask, tap)
            if tap is not None:
                tap(f"stream.{i + 1}", state)
        return state

    def set_attention(self, attention: Attention) -> None:
        """Use another implementation of attention in every layer (export emits one fused op)."""
        for layer in self.layers:
            layer.attention = attention

    def set_dropout(self, p: float) -> None:
        """Set the dropout probability everywhere."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = p

    def parameter_count(self) -> int:
        """Return the number of trained parameters of the folded model."""
        from rmtkd_edge.families.encoder.spec import count_parameters

        return count_parameters(self.spec)


def producers(encoder: Encoder) -> dict[str, list[ProjectedLinear]]:
    """Return, for every site, the linear layers whose output lives in it (embedding tables are not among them)."""
    stream = [module for layer in encoder.layers for module in (layer.out, layer.down)]
    if encoder.embeddings.project is not None:
        stream.insert(0, encoder.embeddings.project)
    sites = {"stream": stream, "head": [encoder.head]}
    for layer in encoder.layers:
        sites[f"{layer.name}.qk"] = [layer.query, layer.key]
        sites[f"{layer.name}.value"] = [layer.value]
        sites[f"{layer.name}.ffn"] = [layer.up]
    return sites


@torch.no_grad()
def fold(encoder: Encoder) -> Encoder:
    """Return the plain narrow model that `encoder` equals exactly: P W in place of W and P (dtype kept)."""
    spec = EncoderSpec.from_dict({**encoder.spec.to_dict(), "raw": {}})
    folded = Encoder(spec).to(next(encoder.parameters()))
    state = encoder.state_dict()
    for name, module in encoder.named_modules():
        if isinstance(module, ProjectedLinear):
            state[f"{name}.weight"], state[f"{name}.bias"] = module.folded()
            state.pop(f"{name}.projection", None)
    projection, words = state.pop("embeddings.projection", None), state.pop("embeddings.word_projection", None)
    if words is not None:
        state["embeddings.word.weight"] = state["embeddings.word.weight"] @ words.T
    if projection is not None:
        for name in _into_sum(state):
            weight = state[name]
            state[name] = projection @ weight if "expand" in name else weight @ projection.T
    folded.load_state_dict({k: v.clone() for k, v in state.items()})
    return folded.train(encoder.training)


def _into_sum(state: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors whose output is added up in front of the embeddings' norm."""
    words = ("expand.weight", "expand.bias") if "embeddings.expand.weight" in state else ("word.weight",)
    names = [f"embeddings.{part}" for part in (*words, "position.weight", "token_type.weight")]
    return [name for name in names if name in state]


@torch.no_grad()
def unfold(folded: Encoder, projections: dict[str, Tensor]) -> Encoder:
    """Return `folded` with the fixed projections put back behind its producers: W becomes P^T W', since P P^T = I.

    `projections` holds, by site, P (k x d); for qk and value sites the block-diagonal one over all heads.
    """
    heads = {site.name: site.heads for site in list_sites(folded.spec)}
    raw = {name: p.shape[1] // heads[name] for name, p in projections.items()}
    wide = Encoder(EncoderSpec.from_dict({**folded.spec.to_dict(), "raw": raw})).to(next(folded.parameters()))
    state = folded.state_dict()
    names = {id(module): name for name, module in wide.named_modules()}
    for site, modules in producers(wide).items():
        if site in projections:
            p = projections[site].to(next(folded.parameters()))
            for name in (names[id(module)] for module in modules):
                state[f"{name}.weight"], state[f"{name}.bias"] = (
                    p.T @ state[f"{name}.weight"],
                    p.T @ state[f"{name}.bias"],
                )
                state[f"{name}.projection"] = p
    if wide.embeddings.projection is not None:
        p = projections["stream"].to(next(folded.parameters()))
        state["embeddings.projection"] = p
        for name in _into_sum(state):
            state[name] = p.T @ state[name] if "expand" in name else state[name] @ p
    if wide.embeddings.word_projection is not None:
        p = projections["words"].to(next(folded.parameters()))
        state["embeddings.word_projection"] = p
        state["embeddings.word.weight"] = state["embeddings.word.weight"] @ p
    wide.load_state_dict({k: v.clone() for k, v in state.items()})
    return wide.train(folded.training)


def projections_of(encoder: Encoder) -> dict[str, Tensor]:
    """Return the fixed projections by site (all producers of a site share one)."""
    found: dict[str, Tensor] = {}
    for site, modules in producers(encoder).items():
        if modules and modules[0].projection is not None:
            found[site] = modules[0].projection
    if encoder.embeddings.projection is not None:
        found["stream"] = encoder.embeddings.projection
    if encoder.embeddings.word_projection is not None:
        found["words"] = encoder.embeddings.word_projection
    return found


def narrow_like(encoder: Encoder, ranks: dict[str, int]) -> Encoder:
    """Return an untrained folded encoder of the given ranks (its weights are not set)."""
    spec = EncoderSpec.from_dict({**encoder.spec.to_dict(), "raw": {}})
    return Encoder(with_ranks(spec, ranks))
