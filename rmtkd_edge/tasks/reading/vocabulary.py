"""A tokenizer with fewer tokens: what it keeps is split as before, everything else into more pieces.

No text becomes unknown that was not before, where every character of the vocabulary is a token of its own (in BERT's,
GPT-2's and SentencePiece's it is): a token with a character that is none is never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.errors import UserError
from rmtkd_edge.run.records.vocabulary import SplitTokens
from rmtkd_edge.tasks.reading.ragged import Ragged

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
Ids = Sequence[Sequence[int]]
Json = dict[str, Any]
Spell = Callable[[str], list[str]]  # a token -> its characters as tokens of their own


def kept_tokens(tokenizer: Any, counts: np.ndarray, least: int) -> np.ndarray:
    """Return the ids of the tokens that stay, increasing, int64.

    These are the tokens with a count of `least`, special and added ones, single characters (also as continuations, and
    bytes), tokens with a character that is no token of its own, and those that a kept one is merged from.

    Args:
        counts: by id, int64 (n,): how often texts use each token.

    Raises:
        UserError: the tokenizer is of a kind that cannot be cut.
    """
    whole = _read(tokenizer)
    model = whole["model"]
    ids, spell = _ids(model), _speller(model)
    kept = {item["content"] for item in whole["added_tokens"]}
    kept |= {_unknown(model)} & ids.keys()
    for token, number in ids.items():
        pieces = spell(token)
        single = len(pieces) < 2 or _is_byte(token)
        if single or (number < len(counts) and counts[number] >= least) or not all(piece in ids for piece in pieces):
            kept.add(token)
    kept |= _merged_from(model, kept)
    added = {item["content"]: item["id"] for item in whole["added_tokens"]}
    return np.array(sorted({**ids, **added}[token] for token in kept), np.int64)


def cut_tokenizer(tokenizer: Any, kept: np.ndarray, folder: Path) -> None:
    """Write a tokenizer's files with the tokens of `kept` alone, numbered in that order.

    Raises:
        UserError: the tokenizer is of a kind that cannot be cut.
    """
    whole = _read(tokenizer)
    new = {int(old): number for number, old in enumerate(kept)}
    model = whole["model"]
    model["vocab"] = _fewer(model, new)
    if "merges" in model:
        tokens = model["vocab"]
        model["merges"] = [
            pair for pair in model["merges"] if all(part in tokens for part in (*_pair(pair), _made(model, pair)))
        ]
    if model.get("unk_id") is not None:
        model["unk_id"] = new[model["unk_id"]]
    for item in whole["added_tokens"]:
        item["id"] = new[item["id"]]
    _renumber(whole["post_processor"], new)
    whole["padding"] = whole["truncation"] = None  # of an earlier call
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in (FILE, SETTINGS):  # vocab.txt and the like still hold every token
            path.unlink()
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    if added := settings.get("added_tokens_decoder"):
        settings["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in added.items()}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False), "utf-8")
    (folder / FILE).write_text(json.dumps(whole, ensure_ascii=False), "utf-8")


def changed_tokens(before: Ids, after: Ids, kept: np.ndarray, unknown: int | None) -> SplitTokens:
    """Return what a smaller vocabulary changes of the rows of a split.

    Args:
        before, after: token ids by row.
        kept: the former ids of the tokens that are left.
        unknown: the former id of the unknown token, None where there is none.
    """
    old, new = Ragged.of(before), Ragged.of(after)
    same = np.array([a == kept[b].tolist() for a, b in zip(old, new, strict=True)])
    return SplitTokens(
        rows_changed=float((~same).mean()),
        tokens_before=len(old.flat),
        tokens_after=len(new.flat),
        unknown_before=int((old.flat == unknown).sum()),
        unknown_after=int((kept[new.flat] == unknown).sum()),
    )


def _read(tokenizer: Any) -> Json:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("compress.vocabulary needs a fast tokenizer (tokenizer.json)", "leave compress.vocabulary out")
    whole: Json = json.loads(backend.to_str())
    if whole["model"]["type"] not in SPELLERS:
        raise UserError(
            f"a tokenizer of the kind {whole['model']['type']} cannot be cut (known: {', '.join(SPELLERS)})",
            "leave compress.vocabulary out",
        )
    return whole


def _ids(model: Json) -> dict[str, int]:
    """Return the ids by token; a Unigram model lists its tokens with their scores."""
    vocab = model["vocab"]
    return dict(vocab) if isinstance(vocab, dict) else {token: i for i, (token, _) in enumerate(vocab)}


def _fewer(model: Json, new: Mapping[int, int]) -> Any:
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        return {token: new[i] for token, i in sorted(vocab.items(), key=lambda item: item[1]) if i in new}
    return [item for i, item in enumerate(vocab) if i in new]


def _unknown(model: Json) -> str:
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    return str(model.get("unk_token") or "")


def _speller(model: Json) -> Spell:
    return SPELLERS[model["type"]](model)


def _word_pieces(model: Json) -> Spell:
    """Spell as WordPiece does: a first character, then continuations."""
    mark = model["continuing_subword_prefix"]

    def spell(token: str) -> list[str]:
        if token.startswith(mark) and token != mark:
            return [mark + c for c in token.removeprefix(mark)]
        return [token[:1], *(mark + c for c in token[1:])]

    return spell


def _merges(model: Json) -> Spell:
    """Spell as BPE does: characters, continuations marked at their beginning, the last of a word at its end."""
    mark, end = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""

    def spell(token: str) -> list[str]:
        ends = bool(end) and token.endswith(end) and token != end
        body = token.removesuffix(end) if ends else token
        starts = not (mark and body.startswith(mark))
        letters = list(body if starts else body.removeprefix(mark))
        pieces = [c if starts and i == 0 else mark + c for i, c in enumerate(letters)]
        return [*pieces[:-1], pieces[-1] + end] if ends and pieces else pieces

    return spell


SPELLERS: dict[str, Callable[[Json], Spell]] = {
    "WordPiece": _word_pieces,
    "BPE": _merges,
    "Unigram": lambda model: list,
}


def _is_byte(token: str) -> bool:
    """Return whether a token stands for one byte (`<0x0A>`) of a character that has no token."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _made(model: Json, merge: Any) -> str:
    """Return the token that a merge makes."""
    first, second = _pair(merge)
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _merged_from(model: Json, kept: set[str]) -> set[str]:
    """Return the tokens on the way of merges to the kept ones."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for merge in model.get("merges", ()):
        parts.setdefault(_made(model, merge), []).append(_pair(merge))
    found, waiting = set[str](), list(kept)
    while waiting:
        new = {part for pair in parts.get(waiting.pop(), ()) for part in pair} - found - kept
        found |= new
        waiting += new
    return found


def _renumber(part: Any, new: Mapping[int, int]) -> None:
    """Put new ids, in place, where a post-processor names tokens by their ids."""
    for item in _objects(part):
        if item.get("type") in ("BertProcessing", "RobertaProcessing"):
            for name in ("sep", "cls"):
                token, old = item[name]
                item[name] = [token, new[old]]
        elif item.get("type") == "TemplateProcessing":
            for special in item["special_tokens"].values():
                special["ids"] = [new[old] for old in special["ids"]]


def _objects(part: Any) -> Iterator[Json]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from _objects(value)
    elif isinstance(part, list):
        for value in part:
            yield from _objects(value)
