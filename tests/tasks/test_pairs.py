"""Pairs of texts: the tokenizer's own ids, types that tell the texts apart, and no time lost on what is cut off."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.pairs import encode_pairs
from rmtkd_edge.tasks.reading.sequences import encode
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer

WORDS = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{i}" for i in range(8))]
NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
BERT = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", [("<s>", 2), ("</s>", 3)])
UNTYPED = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 2), ("</s>", 3)])
ROBERTA = processors.RobertaProcessing(("</s>", 3), ("<s>", 2))
JOINERS = {"bert": BERT, "untyped": UNTYPED, "roberta": ROBERTA}


def make(joiner, **options) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer, core.post_processor = pre_tokenizers.Whitespace(), joiner
    return PreTrainedTokenizerFast(tokenizer_object=core, **NAMES, **options)


@pytest.fixture(scope="module", params=[*JOINERS, "shipped"])
def tokenizer(request, tiny_tokenizer):
    return load_tokenizer(str(tiny_tokenizer)) if request.param == "shipped" else make(JOINERS[request.param])


@pytest.mark.parametrize("side", ["right", "left"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 30), st.integers(0, 30), st.integers(6, 40))
def test_ids_are_those_of_the_tokenizer(tokenizer, side, first, second, longest):
    tokenizer.truncation_side = side
    pair = " ".join(f"w{i % 8}" for i in range(first)), " ".join(f"the w{i % 5}" for i in range(second))
    wanted = tokenizer([pair[0]], [pair[1]], truncation=True, max_length=longest)["input_ids"]
    ids, types = encode_pairs(tokenizer, [pair[0]], [pair[1]], longest)
    assert ids == wanted and len(types[0]) == len(ids[0]) <= longest


@pytest.mark.parametrize("listed", [True, False])
def test_the_second_text_always_has_a_type_of_its_own(listed):
    names = ["input_ids", "token_type_ids", "attention_mask"] if listed else ["input_ids", "attention_mask"]
    for joiner in JOINERS.values():
        tokenizer = make(joiner, model_input_names=names)
        ids, types = encode(tokenizer, [["w1 w2"], ["w3"]], 12)
        second = ids[0].index(WORDS.index("w3"))
        assert types == [[0] * second + [1] * (len(ids[0]) - second)]
        assert encode(tokenizer, [["w1 w2"]], 12)[1] is None


def test_long_pairs_are_cut_before_they_are_joined():
    text, start = "w1 w2 w3 w4 " * 250, time.monotonic()
    ids, _ = encode(make(BERT), [[text] * 60, [text] * 60], 32)
    assert time.monotonic() - start < 5 and {len(row) for row in ids} == {32}


def test_no_room_for_text_is_refused():
    with pytest.raises(DataError, match="3 special tokens") as caught:
        encode(make(BERT), [["w1"], ["w2"]], 3)
    assert "task.max_length=5" in caught.value.hint
