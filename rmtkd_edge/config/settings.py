"""What all settings files share: strict tables, all faults reported at once, and the folder of those that ship."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
LONGEST = 1024  # characters of a name, an id or a path
Text = Annotated[str, Field(max_length=LONGEST)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Length = Annotated[int, Field(ge=1, le=1_048_576)]  # in tokens, or of pixels in a row
Nonnegative = Annotated[float, Field(ge=0, le=1e12)]
MOST_WEIGHTS = 2_000_000_000  # of a model that is trained from random weights
Amount = Annotated[float, Field(gt=0, le=1e12)]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation by channel, of pixels as shares of 255
Scales = Literal["dynamic", "static"]  # of int8 activations: computed for every input, or from calibration rows
Head = Literal["row", "token", "embedding"]  # what a model gives: values of its labels for a row or a token, a vector
Graph = Literal["fast", "portable"]  # with onnxruntime's own operators (com.microsoft), or standard ONNX alone


def _absolute(name: str) -> str:
    """Return a path that means the same file from any folder."""
    try:
        found = str(Path(name).expanduser().absolute())
    except (OSError, RuntimeError) as err:  # the current folder is gone, or `~` is nobody's
        raise ValueError(f"cannot be found from here: {err}") from err
    if len(found) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters with the folder that it is in")
    return found


File = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]  # one that is read again later


class Section(BaseModel):
    """A table of a settings file: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def shipped_folder(kind: str) -> Path:
    """Return the folder `kind` of the settings that ship: inside the wheel, or at the top of a checkout."""
    shipped = Path(str(resources.files("rmtkd_edge"))) / "_data" / kind
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[2] / kind


def did_you_mean(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """Return `; did you mean ...?` for the nearest of `known`, or an empty text where none is near.

    Case and surrounding spaces do not count.
    """
    plain = {other.strip().casefold(): other for other in reversed(known)}
    near = difflib.get_close_matches(name.strip().casefold(), plain, n=1, cutoff=cutoff)
    return f"; did you mean `{plain[near[0]]}`?" if near else ""


def describe_faults(err: ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """Return one line a fault of a settings file that `root` describes, with a near match for every unknown key."""
    lines = []
    for fault in err.errors():
        path = [str(part) for part in fault["loc"]]
        where = prefix + ".".join(path) or "the file"
        if fault["type"] == "extra_forbidden":
            known = _keys_at(root, path[:-1])
            guess = did_you_mean(path[-1], known, cutoff=0.5)
            lines.append(f"  {where}: unknown key" + (guess or f" (known: {', '.join(known)})"))
        else:
            got = "" if isinstance(fault["input"], dict) else f" (got {shortened(fault['input'])})"
            what = fault["msg"].removeprefix("Value error, ")
            names_its_key = fault["type"] == "value_error" and not got
            lines.append(f"  {what}" if names_its_key else f"  {where}: {what}{got}")
    return "\n".join(lines)


def shortened(value: object, most: int = 100) -> str:
    """Return a value as it is written, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}..."


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
