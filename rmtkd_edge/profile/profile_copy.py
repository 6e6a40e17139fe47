"""A copy of a hardware profile with what was measured for it, next to the user's other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from rmtkd_edge.config.hardware import HardwareProfile, find_profile, load_profile, parse_profile
from rmtkd_edge.config.toml import read_toml
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.run.directory import atomic_write_bytes

COMMANDS = {"calibration": "calibrate", "tuning": "profile --tune"}  # by the table that each writes


def refuse_target(target: Path, force: bool, table: str) -> None:
    """Raise UserError for a file that is no profile's, RunDirError where one is there and may not be replaced.

    `force` replaces what an earlier call wrote, which has that table.
    """
    if target.suffix != ".toml":
        raise UserError(f"{target} is no .toml file", f"--out {target}.toml")
    if target.exists() and not force:
        raise RunDirError(f"{target} is there already", "add --force to replace it, or choose another --out")
    if target.exists() and getattr(load_profile(target), table) is None:
        raise RunDirError(f"{target} was not written by {COMMANDS[table]}, and is not replaced", "choose another --out")


def write_copy(
    source: str | Path, target: Path, changes: Mapping[str, Any], whys: Mapping[str, str]
) -> HardwareProfile:
    """Write a copy of a profile with some keys changed, named after the file, and return it.

    Raises RecipeError for a file name that is no profile's name.
    """
    data: dict[str, Any] = read_toml(find_profile(str(source)))
    data |= {"name": target.stem, "comparable": False, **changes}
    data.setdefault("whys", {}).update(whys)
    profile = parse_profile(data, str(target))
    atomic_write_bytes(target, tomli_w.dumps(data).encode())
    return profile
