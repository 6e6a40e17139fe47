"""From a checkpoint, transformers' or our own, to an `Encoder` with the data's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.config.settings import Head
from rmtkd_edge.families.classifier_checkpoints import Classifiers
from rmtkd_edge.families.encoder.fold import DISTANCES
from rmtkd_edge.families.encoder.names import names_from_transformers, pooler_of, root_of, spec_from_config
from rmtkd_edge.families.encoder.sentence_files import is_embedder, pooling_of
from rmtkd_edge.families.encoder.spec import DEBERTA, EncoderSpec
from rmtkd_edge.families.sources import own_model

if TYPE_CHECKING:
    from rmtkd_edge.families.encoder.module import Encoder

TRIAL_TOKENS = 16  # and those that are so far apart that DeBERTa has buckets for them


def _state(spec: EncoderSpec, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict from weights under transformers' names, of those that are there."""
    names = {
        f"{ours}.{part}": f"{name}.{part}"
        for ours, name in names_from_transformers(spec).items()
        for part in ("weight", "bias")
    }
    found = {ours: theirs[name] for ours, name in names.items() if name in theirs}
    return _plain_deberta(spec, found, theirs) if spec.model_type == DEBERTA else found


def _plain_deberta(spec: EncoderSpec, found: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which what DeBERTa does to tables is done: it depends on no input.

    The table of distances is normalised; embeddings of a width of their own are mapped to the stream's, of which only
    the word table, where it is narrower, keeps its width.
    """
    root = "" if spec.head == "embedding" else f"{root_of(spec.model_type)}."
    norm, map_ = f"{root}encoder.LayerNorm", theirs.get(f"{root}embeddings.embed_proj.weight")
    if DISTANCES in found and f"{norm}.weight" in theirs:
        parts = (theirs[f"{norm}.weight"], theirs[f"{norm}.bias"])
        found[DISTANCES] = F.layer_norm(found[DISTANCES], (spec.width,), *parts, spec.eps)
    if map_ is not None:
        for part in ("word", "position", "token_type"):
            if f"embeddings.{part}.weight" in found and (part != "word" or spec.embedding_rank is None):
                found[f"embeddings.{part}.weight"] = found[f"embeddings.{part}.weight"] @ map_.T
        if spec.embedding_rank is not None:
            found["embeddings.expand.weight"], found["embeddings.expand.bias"] = map_, torch.zeros_like(map_[:, 0])
    return found


def _parts(config: Any) -> tuple[str, str]:
    pooler, classifier, _ = pooler_of(config.model_type)
    return pooler, classifier


CLASSIFIERS: Classifiers[Encoder] = Classifiers(
    family="encoder",
    kind="a plain encoder",
    causes="a class with a forward of its own, other activations, norms, positions or token types than its config.json "
    "says are not supported",
    spec_of=spec_from_config,
    state_of=_state,
    parts=_parts,
    trial_tokens=lambda spec: TRIAL_TOKENS + (spec.disentangled.buckets // 2 if spec.disentangled else 0),
)
from_transformers = CLASSIFIERS.from_transformers


def pretrained(source: str, labels: Sequence[str], problem: str | None, head: Head = "row") -> tuple[Encoder, bool]:
    """Return the model of a hub id or a folder, and whether its head is trained already; see `Classifiers`."""
    own = own_model(Path(source)) is not None
    embedder = head == "embedding" and not own and is_embedder(source)
    encoder, trained = CLASSIFIERS.pretrained(source, labels, problem, head, embedder)
    if head == "embedding" and not own:  # a folder of ours says it in its own spec
        pooling, normalised = pooling_of(source)
        encoder.spec = replace(encoder.spec, pooling=pooling, normalised=normalised)
    return encoder, trained
