"""How images were normalised for a checkpoint: what preprocessor_config.json says, and what the recipe may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.sources import INTACT
from rmtkd_edge.run.records.base import read_json_file

PREPROCESSOR = "preprocessor_config.json"
WHOLE = 255.0  # the value of white
SAME_SHARE = 0.002  # of the whole range of pixels, by which a mean or std may differ in rounding


def normalisation_of(source: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation that preprocessor_config.json of a folder names, None without it.

    Raises:
        UserError: it says something that is no normalisation.
        RunDirError: it cannot be read.
    """
    path = Path(source) / PREPROCESSOR
    if not path.is_file():
        return None
    found = read_json_file(path, INTACT)
    try:
        scale = WHOLE * (found.get("rescale_factor", 1 / WHOLE) if found.get("do_rescale", True) else 1.0)
        if not found.get("do_normalize", True):
            return (0.0,) * 3, (1 / scale,) * 3
        mean, std = ([float(value) / scale for value in found[key]] for key in ("image_mean", "image_std"))
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"image_mean {mean}, image_std {std}")
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as err:
        raise UserError(f"{path} names no mean and std of three channels: {err}", INTACT) from err
    return tuple(mean), tuple(std)


def refuse_other(theirs: Any, recipes: Any, source: str) -> None:
    """Raise UserError where a recipe normalises images otherwise than a trained source was trained with."""
    if any(abs(a - b) > SAME_SHARE for x, y in zip(theirs, recipes, strict=True) for a, b in zip(x, y, strict=True)):
        raise UserError(
            f"{source} was trained with mean {list(theirs[0])} and std {list(theirs[1])}, task.mean is "
            f"{list(recipes[0])} and task.std {list(recipes[1])}",
            "leave task.mean and task.std out",
        )
