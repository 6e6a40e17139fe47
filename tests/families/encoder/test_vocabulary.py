"""Encoders that read fewer tokens."""

from __future__ import annotations

import pytest
import torch
from families.encoder.sample import KINDS, WORDS, make_batch, make_encoder, make_spec

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import call, find_family

KEPT = [0, 1, 2, 3, *range(10, 60, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_tokens_give_the_same_logits(kind):
    wide = make_encoder(make_spec(kind))
    family = find_family("encoder")
    narrow = family.with_vocabulary(wide, KEPT)
    batch = make_batch()
    new = batch["input_ids"] % len(KEPT)
    old = torch.tensor(KEPT)[new]
    new, old = (torch.where(batch["attention_mask"].bool(), ids, 0) for ids in (new, old))
    torch.testing.assert_close(
        call(narrow, {**batch, "input_ids": new}), call(wide, {**batch, "input_ids": old}), rtol=0, atol=0
    )
    table = (len(WORDS) - len(KEPT)) * wide.embeddings.word.weight.shape[1]
    assert wide.spec.count_parameters() - narrow.spec.count_parameters() == table


def test_tokens_without_a_row_and_a_lost_padding_token_are_refused():
    wide = make_encoder(make_spec("roberta"))
    family = find_family("encoder")
    with pytest.raises(UserError, match=r"token 60, the word table 60 rows"):
        family.with_vocabulary(wide, [*KEPT, 60])
    with pytest.raises(UserError, match="padding token 0"):
        family.with_vocabulary(wide, KEPT[1:])
