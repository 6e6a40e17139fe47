"""Records as JSON: one way to write a document, and one checked and bounded way to read it."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rmtkd_edge.errors import RunDirError

LARGEST = 256 * 2**20  # bytes of a JSON file that is read
DEEPEST = 64  # levels of nesting
LONGEST_INT = 19  # digits: what fits in 64 bits
SHOWN = 5  # faults that an error lists
AGAIN = "run the stage that wrote it again with --force"

# The ranges of figures: of those that are measured here and of those that come from elsewhere (profile/foreign.py).
Amount = Annotated[float, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(ge=0, le=2**53)]
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Document:
    """Base of the dataclasses that are a whole JSON document; parts of documents are plain frozen dataclasses.

    Values are not converted when they are read (no text for a number, no NaN, no infinity) and unknown keys are
    refused, in the parts too.
    """

    __pydantic_config__ = STRICT
    SCHEMA: ClassVar[str]


D = TypeVar("D", bound=Document)


def to_json(record: Document) -> dict[str, Any]:
    """Return the JSON object of a document, its schema first; None stays null, tuples become lists."""
    return {"schema": record.SCHEMA, **_plain(record)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def from_json(cls: type[D], data: Any, where: Path | str, version: str = "") -> D:
    """Return the record that a JSON object holds.

    Args:
        data: what the JSON file holds, its `schema` included.
        where: the file, for error messages.
        version: of the package that wrote it, as far as that is known.

    Raises:
        RunDirError: another schema, or values that are missing, unknown, of another type or out of range.
    """
    if not isinstance(data, dict):
        raise RunDirError(f"{where} holds no JSON object", AGAIN)
    if (schema := data.get("schema")) != cls.SCHEMA:
        raise RunDirError(
            f"{where} has {'no schema' if schema is None else f'schema {schema!r}'}, this version reads {cls.SCHEMA!r}",
            f"use the version that wrote the run{f' ({version})' if version else ''}, or compress again with --force",
        )
    body = {key: value for key, value in data.items() if key != "schema"}
    try:
        # As text, since strict validation takes a list for a tuple in JSON alone.
        kind: Any = cls
        found: D = _adapter(kind).validate_json(json.dumps(body, allow_nan=False))
        return found
    except ValidationError as err:
        raise RunDirError(f"{where}: {describe(err)}", AGAIN) from err
    except (ValueError, RecursionError) as err:
        what = "it is nested too deep" if isinstance(err, RecursionError) else "a figure is not finite"
        raise RunDirError(f"{where}: {what}", AGAIN) from err


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def describe(err: ValidationError) -> str:
    """Return the first faults of a document, each after its place, and how many there are besides."""
    faults = [_fault(fault) for fault in err.errors(include_url=False, include_input=False)]
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return f"{'; '.join(faults[:SHOWN])}{more}"


def _fault(fault: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    if fault["type"] == "json_invalid":  # what was parsed and written again is invalid by its depth alone
        return "it is nested too deep"
    message = {"unexpected_keyword_argument": "Unknown key", "missing": "Missing"}.get(fault["type"], fault["msg"])
    return f"{place.lstrip('.') or 'the document'}: {message}"


def parse_json(data: bytes, where: Path | str, hint: str = AGAIN) -> Any:
    """Return what a JSON text holds.

    Raises:
        RunDirError: naming `where` for a text that is no JSON, is nested too deep, or has a figure that is not finite
            or a whole number that no record has.
    """
    try:
        found = json.loads(data, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except RecursionError as err:
        raise RunDirError(f"{where} is nested too deep", hint) from err
    except ValueError as err:
        raise RunDirError(f"{where} is not valid JSON: {err}", hint) from err
    if is_deeper(found, DEEPEST):
        raise RunDirError(f"{where} is nested too deep", hint)
    return found


def is_deeper(found: Any, levels: int) -> bool:
    """Return whether a JSON value has more than `levels` levels of nesting."""
    level = [found] if isinstance(found, (dict, list)) else []
    for _ in range(levels):
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return False
    return bool(level)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite figure")
    return value


def _whole(text: str) -> int:
    if len(text) > LONGEST_INT:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def read_json_file(path: Path, hint: str = AGAIN, largest: int = LARGEST) -> Any:
    """Return what a JSON file holds.

    Args:
        hint: what the user can do about a file that cannot be used.
        largest: size in bytes that is read at most.

    Raises:
        RunDirError: naming a file that is absent, unreadable, too large, no JSON, or nested too deep.
    """
    check_size(path, hint, largest)
    try:
        data = path.read_bytes()
    except OSError as err:
        raise RunDirError(f"{path} cannot be read: {err.strerror or err}", hint) from err
    return parse_json(data, path, hint)


def check_size(path: Path, hint: str = AGAIN, largest: int = LARGEST) -> None:
    """Raise RunDirError naming a file that is absent, a folder or a device, or has more than `largest` bytes."""
    try:
        found = path.stat()
    except OSError as err:
        raise RunDirError(f"{path} cannot be read: {err.strerror or err}", hint) from err
    if not stat.S_ISREG(found.st_mode):  # a device or a pipe may never end
        raise RunDirError(f"{path} cannot be read: it is no regular file", hint)
    size = found.st_size
    if size > largest:
        raise RunDirError(f"{path} has {size:,} bytes, {largest:,} are read at most", hint)
