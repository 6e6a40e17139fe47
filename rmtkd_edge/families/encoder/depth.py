"""Encoders of fewer layers: the shape, and a copy of the weights of the layers that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.families.layers import with_state


def shorter(spec: EncoderSpec, layers: Sequence[int]) -> EncoderSpec:
    """Return the shape of these layers, by their numbers from 0, alone."""
    return replace(spec, layers=tuple(spec.layers[i] for i in layers))


def shortened(folded: Encoder, layers: Sequence[int]) -> Encoder:
    """Return a folded encoder of these layers alone; embeddings, pooler and classifier are copied too."""
    whole = folded.state_dict()
    state = {name: value for name, value in whole.items() if not name.startswith("layers.")}
    for new, old in enumerate(layers):
        before = f"layers.{old}."
        parts = {name.removeprefix(before): value for name, value in whole.items() if name.startswith(before)}
        state |= {f"layers.{new}.{name}": value for name, value in parts.items()}
    return with_state(Encoder(shorter(folded.spec, layers)), state, folded)
