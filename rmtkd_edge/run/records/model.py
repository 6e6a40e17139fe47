"""model.json next to model.safetensors: the shape of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rmtkd_edge.run.records.base import Document


@dataclass(frozen=True)
class ModelRecord(Document):
    """The family's own description of a shape, and the hash of the weights (none where they were not recorded)."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/model@2"

    spec: dict[str, Any]
    sha256: str | None
