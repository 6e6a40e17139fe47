"""Tokens of layers that are run several times (ALBERT): each sequence shows one of the passes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rmtkd_edge.families.encoder.spec import tap_of
from rmtkd_edge.families.token_sampling import Picked, stream_depth


def tokens_of(taps: Mapping[str, Tensor], name: str, picked: Picked, repeats: int, seed: int) -> Tensor:
    """Return the sampled tokens (n, d) of a layer's tap, each sequence in a random one of the passes."""
    if repeats == 1:
        return taps[name][(picked.rows, picked.columns)]
    number = stream_depth(picked.sequences, repeats, seed + 1)
    found = taps[name].new_empty(len(number), taps[name].shape[-1])
    for each in range(repeats):
        chosen = number == each
        found[torch.from_numpy(chosen)] = taps[tap_of(name, each)][(picked.rows[chosen], picked.columns[chosen])]
    return found
