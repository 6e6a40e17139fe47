"""run.json: every file of a run with its hash, and the state of its stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.hashing import digest_of
from rmtkd_edge.run.records.base import describe, read_json_file

SCHEMA = "rmtkd-edge/run@3"
OLDER = "rmtkd-edge/run@2"  # had no digest; read, and written again as SCHEMA
REMOVING = "removing"  # the files that a process was about to remove
ANEW = "compress again into another folder (--out)"  # --force removes only what a manifest lists
RESTORE = f"restore it, or {ANEW}"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@with_config(ConfigDict(strict=True, extra="allow"))
class Stage(TypedDict, total=False):
    """What is known of a stage; other facts are its own."""

    state: Literal["running", "done"]
    data: str | None


@with_config(ConfigDict(strict=True, extra="allow"))
class Manifest(TypedDict):
    """The keys that something depends on; `created` and the like are only shown."""

    schema: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    files: dict[str, Sha256]
    stages: dict[str, Stage]
    version: NotRequired[str]
    recipe_sha256: NotRequired[str]
    removing: NotRequired[list[str]]


def read_manifest(file: Path) -> dict[str, Any]:
    """Return run.json without its digest; raise RunDirError for another schema, another digest, or odd values."""
    found = read_json_file(file, RESTORE)
    if not isinstance(found, dict):
        raise RunDirError(f"{file} holds no JSON object", RESTORE)
    schema = found.get("schema")
    if schema not in (SCHEMA, OLDER):
        raise RunDirError(
            f"{file} has schema {schema!r}, this version reads {SCHEMA!r}",
            f"use the version that made it ({found.get('version', '?')}), or {ANEW}",
        )
    if (schema == SCHEMA or "digest" in found) and found.pop("digest", None) != digest_of(found):
        raise RunDirError(f"{file} was changed after it was written: its digest does not fit", RESTORE)
    found["schema"] = SCHEMA
    try:
        TypeAdapter(Manifest).validate_json(json.dumps(found))
    except ValidationError as err:
        raise RunDirError(f"{file}: {describe(err)}", RESTORE) from err
    return found
