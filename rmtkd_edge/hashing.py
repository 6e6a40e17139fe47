"""Hashes of files and of documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its own `digest`: tells a damaged or edited file (not a forger).

    `profile/measuring` computes the same for results, since it runs without this package.
    """
    kept = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
