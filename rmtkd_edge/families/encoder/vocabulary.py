"""An encoder that reads fewer tokens: the rows of the word table that are left, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.layers import with_state

TABLE = "embeddings.word.weight"


def with_vocabulary(folded: Encoder, kept: Sequence[int]) -> Encoder:
    """Return a folded encoder whose token i is the token kept[i] of the given one.

    Raises:
        UserError: a token has no row, or the padding token does not stay where positions are counted from its number.
    """
    spec, numbers = folded.spec, [int(i) for i in kept]
    if numbers[-1] >= spec.vocab:
        raise UserError(
            f"the tokenizer has the token {numbers[-1]}, the word table {spec.vocab} rows",
            "set model.tokenizer to the model's own",
        )
    pad = numbers.index(spec.pad_id) if spec.pad_id in numbers else -1
    if pad < 0 or (spec.position_offset and pad != spec.pad_id):
        raise UserError(
            f"the padding token {spec.pad_id} of the model is not the tokenizer's", "leave compress.vocabulary out"
        )
    state = folded.state_dict()
    state[TABLE] = state[TABLE][torch.tensor(numbers)]
    return with_state(Encoder(replace(spec, vocab=len(numbers), pad_id=pad)), state, folded)
