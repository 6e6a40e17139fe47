"""Settings under dotted keys."""

from __future__ import annotations

from typing import Any


def put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set `table.key` of parsed TOML, in place; tables that are not there are made."""
    *tables, last = key.split(".")
    for name in tables:
        data = data.setdefault(name, {})
    data[last] = value
