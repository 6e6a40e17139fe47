"""A smaller vocabulary: the texts that it was cut for are split as before, others never into unknown tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from rmtkd_edge.errors import UserError
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer
from rmtkd_edge.tasks.reading.vocabulary import changed_tokens, cut_tokenizer, kept_tokens

WORDS = ["the", "film", "was", "lovely", "and", "warm", "while", "its", "story", "stayed", "bleak", "dull", "acting"]
OTHERS = ["unrelated", "sentences", "about", "finance", "markets", "quarterly", "earnings", "football", "results"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def texts(words: list[str], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(count)]


def word_piece() -> tuple[Tokenizer, str]:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trained(made, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False))
    letters = sorted({c for word in (*WORDS, *OTHERS) for c in word})
    vocab = list(dict.fromkeys([*made.get_vocab(), *letters, *(f"##{c}" for c in letters)]))  # BERT's has both forms
    made.model = models.WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="<unk>")
    made.post_processor = template(made)
    return made, "BertTokenizer"


def byte_pairs() -> tuple[Tokenizer, str]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(
        made,
        trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made, "RobertaTokenizer"


def unigram() -> tuple[Tokenizer, str]:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trained(
        made,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
    )
    made.post_processor = template(made)
    return made, "XLMRobertaTokenizer"


def trained(made: Tokenizer, trainer: Any) -> None:
    made.train_from_iterator(texts(WORDS, 300, 0) + texts(OTHERS, 300, 1), trainer)


def template(made: Tokenizer) -> Any:
    ends = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    return processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=ends)


@pytest.fixture(scope="module", params=[word_piece, byte_pairs, unigram])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fast tokenizer that knows the words of two kinds of texts."""
    return saved(request.param, tmp_path_factory.mktemp("tokenizer"))


def saved(make: Callable[[], tuple[Tokenizer, str]], folder: Path) -> Any:
    made, name = make()
    made.save(str(folder / "tokenizer.json"))
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "bos": "<s>", "eos": "</s>", "mask": "<mask>"}
    settings = {"tokenizer_class": name, **{f"{key}_token": token for key, token in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(str(folder))


def ids(tokenizer: Any, rows: list[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(rows)["input_ids"]
    return found


def cut(tokenizer: Any, rows: list[str], least: int, folder: Path) -> tuple[Any, np.ndarray]:
    kept = kept_tokens(tokenizer, np.bincount(np.concatenate([np.array(row) for row in ids(tokenizer, rows)])), least)
    cut_tokenizer(tokenizer, kept, folder)
    return load_tokenizer(str(folder)), kept


def test_known_texts_are_split_as_before(tokenizer, tmp_path):
    known = texts(WORDS, 200, 2)
    fewer, kept = cut(tokenizer, known, 1, tmp_path)
    assert len(fewer) == len(kept) < len(tokenizer)
    assert [kept[row].tolist() for row in ids(fewer, known)] == ids(tokenizer, known)
    pair = tokenizer(known[:1], known[1:2]), fewer(known[:1], known[1:2])
    assert kept[pair[1]["input_ids"][0]].tolist() == pair[0]["input_ids"][0]
    by_name = tokenizer.get_vocab()
    assert [by_name[fewer.convert_ids_to_tokens(i)] for i in range(len(kept))] == kept.tolist()
    assert set(fewer.all_special_tokens) == set(tokenizer.all_special_tokens)
    assert fewer.decode(ids(fewer, known)[0]) == tokenizer.decode(ids(tokenizer, known)[0])


def test_other_texts_are_split_into_more_pieces_and_none_becomes_unknown(tokenizer, tmp_path):
    other = [*texts(OTHERS, 100, 3), *texts([word[::-1] for word in (*WORDS, *OTHERS)], 100, 4)]
    fewer, kept = cut(tokenizer, texts(WORDS, 200, 2), 1, tmp_path)
    change = changed_tokens(ids(tokenizer, other), ids(fewer, other), kept, tokenizer.unk_token_id)
    assert change.tokens_after > change.tokens_before and 0 < change.rows_changed <= 1
    assert change.unknown_after == change.unknown_before
    for before, after in zip(tokenizer(other)["input_ids"], fewer(other)["input_ids"], strict=True):
        assert fewer.decode(after, skip_special_tokens=True) == tokenizer.decode(before, skip_special_tokens=True)


def test_rare_tokens_go_too_and_the_parts_of_merges_stay(tokenizer, tmp_path):
    known = [*texts(WORDS, 200, 2), "quarterly"]
    _, every = cut(tokenizer, known, 1, tmp_path / "a")
    fewer, kept = cut(tokenizer, known, 100, tmp_path / "b")
    assert set(kept) < set(every)
    assert fewer.unk_token_id not in np.concatenate([np.array(row) for row in ids(fewer, known)])


def test_a_character_that_is_no_token_is_never_lost(tmp_path):
    """`x` is known only in `tax`: without that token the word would be unknown."""
    vocab = [*SPECIAL, "t", "##t", "a", "##a", "tax", "tat"]
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = template(made)
    tokenizer = saved(lambda: (made, "PreTrainedTokenizerFast"), tmp_path)
    fewer, _ = cut(tokenizer, ["t a"], 1, tmp_path / "cut")
    assert "tax" in fewer.get_vocab() and "tat" not in fewer.get_vocab()
    assert fewer.unk_token_id not in ids(fewer, ["tax tat"])[0]


def test_tokenizers_that_cannot_be_cut_are_refused(tmp_path):
    vocab = {token: i for i, token in enumerate([*SPECIAL, "film"])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.post_processor = template(made)
    tokenizer = saved(lambda: (made, "PreTrainedTokenizerFast"), tmp_path)
    with pytest.raises(UserError, match="kind WordLevel cannot be cut"):
        kept_tokens(tokenizer, np.ones(6, np.int64), 1)
