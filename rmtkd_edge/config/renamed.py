"""Keys and values of recipes of earlier versions, and what they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {  # keys of earlier versions: what they are called now
    "model.config": "model.shape",
    "model.resnet": "model.shape",
    "compress.ffn": "compress.channels",
    "compress.conv": "compress.channels",
    "compress.conv_mode": "compress.mode",
    "stop.max_accuracy_drop": "stop.max_drop",
    "export.max_accuracy_drop": "export.max_drop",
    "export.attention": 'export.graph = "fast" or "portable"',
    "export.norm": 'export.graph = "fast" or "portable"',
}
RENAMED_VALUES = {  # values of earlier versions
    ("model.family", "bert"): "encoder",
    ("task.kind", "text"): "text-classification",
    ("task.kind", "image"): "image-classification",
    ("compress.allocation", "answers"): "kl",
    ("compress.warm_start", "random"): 'left out; compress.method = "plain-kd" trains random weights',
    ("compress.sites", "words"): "embedding",
    ("compress.sites", "head"): "pooler",
    ("compress.ranks", "words"): "embedding",
    ("compress.ranks", "head"): "pooler",
}


def of_a_run(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe that a run keeps with the keys of version 0.2 under their present names."""
    export = data.get("export")
    if not isinstance(export, dict):
        return dict(data)
    kept = {key: value for key, value in export.items() if key not in ("attention", "norm")}
    if "attention" in export:
        kept["graph"] = "portable" if export["attention"] == "plain" else "fast"
    return {**data, "export": kept}


def renamed(data: Mapping[str, Any]) -> list[str]:
    """Return a line for every key or value of an earlier version, with what it is called now."""
    lines = []
    for table, entries in data.items():
        for key, value in entries.items() if isinstance(entries, dict) else ():
            name = f"{table}.{key}"
            if name in RENAMED:
                lines.append(f"  {name}: renamed, it is {RENAMED[name]} now")
            for item in value if isinstance(value, (list, tuple, dict)) else [value]:
                if isinstance(item, str) and (name, item) in RENAMED_VALUES:
                    lines.append(f"  {name}: `{item}` was renamed, it is {RENAMED_VALUES[name, item]} now")
    return lines
