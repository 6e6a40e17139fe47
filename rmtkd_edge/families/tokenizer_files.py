"""A tokenizer's files as they ship with a model: they give the inputs that the model reads, no longer than it reads.

A tokenizer that does not list token_type_ids leaves it to each client to make them up, and clients make them all zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.families.base import Spec

SETTINGS, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
TYPES = "token_type_ids"
CALL = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of")  # of the call before the file was made
PLACE = ("local_files_only", "is_local", "name_or_path")  # where it was loaded from


def fit_tokenizer(spec: Spec, files: Mapping[str, bytes], max_length: int | None = None) -> dict[str, bytes]:
    """Return a tokenizer's files, by name, so that clients feed a model what it was trained with.

    Args:
        max_length: tokens that rows were cut to in training, None for all that the model reads.

    Raises:
        RunDirError: files that are no JSON objects.
    """
    fitted, longest = dict(files), longest_text(spec, max_length)
    if SETTINGS in files:
        settings = _read(files, SETTINGS)
        changed = {name: value for name, value in settings.items() if name not in (*CALL, *PLACE)}
        changed |= {"model_max_length": longest, "padding_side": "right"}  # the classifier reads the first token
        if settings.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's name, which 4 does not know
            changed["tokenizer_class"] = "PreTrainedTokenizerFast"
        names = [item.name for item in spec.inputs]
        if TYPES in names and TYPES not in settings.get("model_input_names", ()):
            changed["model_input_names"] = names
        fitted[SETTINGS] = _written(changed)
    if TOKENIZER in files:
        core = _read(files, TOKENIZER)
        changed = dict(core)
        if core.get("truncation"):
            changed["truncation"] = {**core["truncation"], "max_length": longest}
        if core.get("padding"):
            changed["padding"] = {**core["padding"], "strategy": "BatchLongest", "direction": "Right"}
        if any(item.name == TYPES for item in spec.inputs):
            changed["post_processor"] = _typed(core.get("post_processor"))
        if changed != core:
            fitted[TOKENIZER] = _written(changed)
    return fitted


def longest_text(spec: Spec, max_length: int | None = None) -> int:
    """Return the tokens that a text is cut to: those of training, None for all that the model reads."""
    return min(n for n in (spec.max_length, max_length) if n)


def _typed(processor: Any) -> Any:
    """Return a post-processor of the library tokenizers that gives the second text, and all after it, the type 1."""
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") == "Sequence":
        return {**processor, "processors": [_typed(part) for part in processor["processors"]]}
    if processor.get("type") == "RobertaProcessing":
        processor = _as_template(processor)
    if processor.get("type") != "TemplateProcessing":
        return processor
    pair, second = [], False
    untyped = not any(part["type_id"] for item in processor["pair"] for part in item.values())
    for item in processor["pair"]:
        ((kind, part),) = item.items()
        second = second or (kind == "Sequence" and part["id"] == "B")
        pair.append({kind: {**part, "type_id": int(second)}} if untyped else item)
    return {**processor, "pair": pair}


def _as_template(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return RoBERTa's post-processor, which knows no types, as a template."""
    cls, sep = ({"SpecialToken": {"id": processor[name][0], "type_id": 0}} for name in ("cls", "sep"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokens = {
        text: {"id": text, "ids": [number], "tokens": [text]} for text, number in (processor["cls"], processor["sep"])
    }
    return {
        "type": "TemplateProcessing",
        "single": [cls, first, sep],
        "pair": [cls, first, sep, sep, second, sep],
        "special_tokens": tokens,
    }


def _read(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found = json.loads(files[name])
    except ValueError as err:
        raise RunDirError(f"{name} of the tokenizer is no JSON: {err}", "give an intact tokenizer") from err
    if not isinstance(found, dict):
        raise RunDirError(f"{name} of the tokenizer holds no JSON object", "give an intact tokenizer")
    return found


def _written(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
