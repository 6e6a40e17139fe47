"""Tokenizers by hub id, local folder, or the name of a package that ships them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmtkd_edge.errors import UserError, reason
from rmtkd_edge.packaged import resolve_source


def load_tokenizer(source: str) -> Any:
    """Return the tokenizer of a hub id, a folder, or `package:NAME`; raise UserError where there is none."""
    from transformers import AutoTokenizer

    where = resolve_source(source)
    if where == "scratch":
        raise UserError(
            "a model from scratch needs a tokenizer", "set model.tokenizer to a hub id, a folder or package:NAME"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except Exception as err:  # transformers raises OS, value and hub errors of many kinds
        raise UserError(
            f"no tokenizer can be loaded from `{source}`: {reason(err)}", "give a local folder as model.tokenizer"
        ) from err
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens) or not _has_files(Path(where), tokenizer):
        raise UserError(f"`{source}` holds no tokenizer", "export with tokenizer=..., or set model.tokenizer")
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of `{source}` has no padding token", "use the tokenizer of an encoder")
    return tokenizer


def _has_files(folder: Path, tokenizer: Any) -> bool:
    """Return whether a tokenizer's vocabulary is in its folder: transformers makes one up for a model that it knows."""
    names = set(getattr(tokenizer, "vocab_files_names", {}).values())
    return not folder.is_dir() or not names or any((folder / name).is_file() for name in names)
