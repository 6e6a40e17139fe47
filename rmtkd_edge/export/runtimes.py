"""Which onnxruntimes files like these were tried on: what tools/runtimes.py found, kept with the package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.families.base import find_family
from rmtkd_edge.run.records.export import TestedRecord


def known_outcomes(family: str, options: Export, precisions: Iterable[str]) -> TestedRecord | None:
    """Return what is known of a family's files in one graph; None where none of them was tried at this opset."""
    table = _table()
    found = table["files"].get(family, {}).get(options.graph or "fast")
    if found is None or options.opset != table["opset"]:
        return None
    usual = options.int8_scales in (None, find_family(family).int8_scales[0])  # int8 of other scales was not tried
    differences = {name: found[name] for name in precisions if name in found and (usual or name != "int8")}
    return TestedRecord(reference=table["reference"], differences=differences)


@cache
def _table() -> dict[str, Any]:
    text = resources.files("rmtkd_edge.export").joinpath("runtimes.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
