"""Reading of settings files, which may be anything: bounded, and with the place of what is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import RecipeError

LARGEST = 2**20  # bytes; a recipe or profile has a few thousand


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        RecipeError: it cannot be read, is no regular file, too large, no UTF-8, or no valid TOML.
    """
    try:
        if not path.is_file():  # a device or a pipe may never end
            raise RecipeError(f"{path} is no regular file", "name a TOML file")
        if (size := path.stat().st_size) > LARGEST:
            raise RecipeError(f"{path} has {size:,} bytes, {LARGEST:,} are read at most", "name a file of settings")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise RecipeError(f"{path} cannot be read: {err.strerror or err}", "check the path and its rights") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise RecipeError(f"{path} is not valid TOML: {err}", "fix the file at the place named above") from err
    except RecursionError as err:
        raise RecipeError(f"{path} is nested too deep", "settings have two or three levels") from err
