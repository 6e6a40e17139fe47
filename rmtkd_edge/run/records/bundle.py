"""bundles/NAME.json: what `collect` must know of a bundle that was taken to a device; and the bundle's own list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rmtkd_edge.run.records.base import Document


@dataclass(frozen=True)
class BundleRecord(Document):
    """A bundle: the device's profile, and the plan with its hash."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/bundle@2"

    profile: dict[str, Any]
    quick: bool
    notes: tuple[str, ...]
    plan_sha256: str
    plan: dict[str, Any]


@dataclass(frozen=True)
class BundleFiles(Document):
    """bundle.json in the folder of a bundle: its files, which is all that may be removed to replace it."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/bundle-files@2"

    files: tuple[str, ...]
