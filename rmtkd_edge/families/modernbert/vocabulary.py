"""A ModernBERT that reads fewer tokens: the rows of the word table that are left, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.layers import with_state
from rmtkd_edge.families.modernbert.fold import WORDS
from rmtkd_edge.families.modernbert.module import ModernBert


def with_vocabulary(folded: ModernBert, kept: Sequence[int]) -> ModernBert:
    """Return a folded model whose token i is the token kept[i] of the given one.

    Raises:
        UserError: a token has no row, or the padding token is not among them.
    """
    spec, numbers = folded.spec, [int(i) for i in kept]
    if numbers[-1] >= spec.vocab:
        raise UserError(
            f"the tokenizer has the token {numbers[-1]}, the word table {spec.vocab} rows",
            "set model.tokenizer to the model's own",
        )
    if spec.pad_id not in numbers:
        raise UserError(
            f"the padding token {spec.pad_id} of the model is not the tokenizer's", "leave compress.vocabulary out"
        )
    state = folded.state_dict()
    state[WORDS] = state[WORDS][torch.tensor(numbers)]
    spec = replace(spec, vocab=len(numbers), pad_id=numbers.index(spec.pad_id))
    return with_state(ModernBert(spec), state, folded)
