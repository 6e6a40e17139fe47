"""A measurement's JSON file, as a user passes it: complete, of a sensible size, or refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import UserError

LARGEST = 256 * 2**20  # bytes that are read at most


def read_document(file: Path, hint: str) -> Any:
    """Return what a JSON file holds; raise UserError naming the file, with `hint`, where it cannot be had."""
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file} has {file.stat().st_size} bytes: no measurement is that large", hint)
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise UserError(f"{file} cannot be read: {err.strerror or err}", hint) from err
    except ValueError as err:
        raise UserError(f"{file} is no whole JSON file: {err}", hint) from err
