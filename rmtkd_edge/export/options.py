"""What a user may ask of an export; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.config.settings import Graph


@dataclass(frozen=True)
class ExportOptions:
    """Which run is exported, and how; None leaves it to the recipe.

    Attributes:
        run: the run directory.
        graph: `fast` or `portable`.
        data: the data set, None for the one that compress used.
        threads: of onnxruntime while files are verified and scored, None for all cores of this process.
        force: replace an export that is there.
    """

    run: Path
    int8: bool | None = None
    fp16: bool | None = None
    opset: int | None = None
    graph: Graph | None = None
    data: Path | None = None
    threads: int | None = None
    force: bool = False

    def applied(self, section: Export) -> Export:
        """Return a recipe's export section with what these options say otherwise."""
        given: dict[str, Any] = {"int8": self.int8, "fp16": self.fp16, "opset": self.opset, "graph": self.graph}
        return section.model_copy(update={key: value for key, value in given.items() if value is not None})
