"""What sentence-transformers keeps next to a transformer: which pooling makes an embedding of its states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.packaged import MODULES

Pooling = Literal["mean", "cls"]

POOLING, TRANSFORMER = "1_Pooling/config.json", "sentence_bert_config.json"
KEYS: dict[Pooling, str] = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
OTHER_KEYS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens")
SUPPORTED = "supported: mean or cls pooling, then Normalize or nothing"


def pooling_of(source: str) -> tuple[Pooling, bool]:
    """Return the pooling of a hub id's or a folder's embeddings, and whether they are normalised.

    A source that does not say is taken to have the mean over tokens, normalised.

    Raises:
        UserError: it has other modules, or another pooling.
    """
    modules = _read(source, MODULES)
    if modules is None:
        return "mean", True
    try:
        parts = {str(part["type"]).rpartition(".")[2]: str(part["path"]) for part in modules}
    except (TypeError, KeyError) as err:
        raise UserError(f"{MODULES} of `{source}` lists no modules", SUPPORTED) from err
    if odd := parts.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise UserError(f"`{source}` has the modules {', '.join(sorted(odd))}", SUPPORTED)
    config = _read(source, f"{parts.get('Pooling', '1_Pooling')}/config.json") or {}
    modes = config.get("pooling_mode") or [key for key, used in config.items() if used is True and "_mode_" in key]
    modes = [modes] if isinstance(modes, str) else list(modes)
    known = {name: mode for mode, key in KEYS.items() for name in (mode, key)}
    if len(modes) != 1 or modes[0] not in known:
        raise UserError(f"`{source}` pools by {', '.join(map(str, modes)) or 'nothing that is named'}", SUPPORTED)
    return known[modes[0]], "Normalize" in parts


def is_embedder(source: str) -> bool:
    """Return whether a hub id or a folder is a model of sentence-transformers."""
    return _read(source, MODULES) is not None


def sentence_files(spec: EncoderSpec, longest: int) -> Mapping[str, bytes]:
    """Return the files by name with which sentence-transformers makes the same embeddings of an exported encoder.

    Args:
        longest: tokens that a text is cut off at.
    """
    types = ["Transformer", "Pooling", *(["Normalize"] if spec.normalised else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(types)
    ]
    pooling: dict[str, Any] = {"word_embedding_dimension": spec.embedding_width or spec.width}
    pooling |= {key: mode == spec.pooling for mode, key in KEYS.items()} | dict.fromkeys(OTHER_KEYS, False)
    files = {MODULES: modules, POOLING: pooling, TRANSFORMER: {"max_seq_length": longest, "do_lower_case": False}}
    return {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in files.items()}


def _read(source: str, name: str) -> Any:
    """Return a JSON file of a hub id or a folder (or next to a folder's), None where there is none.

    Raises:
        UserError: it cannot be read, or the hub cannot be asked whether there is one.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = Path(source)
    if folder.is_dir():
        path = next((str(place / name) for place in (folder, folder.parent) if (place / name).is_file()), None)
    elif try_to_load_from_cache(source, name) is _CACHED_NO_EXIST:
        path = None
    else:
        try:
            path = hf_hub_download(source, name)
        except LocalEntryNotFoundError as err:  # offline: not known to be missing
            raise UserError(
                f"{name} of `{source}`, which says how its embeddings are pooled, cannot be fetched",
                "connect once, or give a local folder as model.source",
            ) from err
        except EntryNotFoundError:
            path = None
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as err:
        raise UserError(f"{path} cannot be read as JSON", "give an intact folder as model.source") from err
