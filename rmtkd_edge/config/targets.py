"""What `stop.target_reduction` may be: one share of the parameters, or several, increasing, for a family of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

MEANING = "Share of the teacher's parameters to remove; a list, increasing: one student at each share"


def checked(value: Any) -> Any:
    """Return a target or a tuple of targets (a list of one is that target); raise ValueError for anything else."""
    if value is None or (_is_number(value) and 0 <= value <= 1):
        return value
    if _is_number(value):
        raise ValueError(f"a share of the parameters is from 0 to 1{_percent([value])}")
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_number, value)):
        raise ValueError("give a share of the parameters, such as 0.8, or a list of them, such as [0.5, 0.7, 0.8]")
    increasing = sorted(set(value))
    if not 0 < increasing[0] <= increasing[-1] < 1:
        raise ValueError(f"every share lies between 0 and 1{_percent(increasing)}")
    if increasing != list(value):
        raise ValueError(f"the shares must increase; did you mean {increasing}?")
    return value[0] if len(value) == 1 else tuple(map(float, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _percent(values: Sequence[float]) -> str:
    """Return a guess where increasing shares were given in percent, else nothing."""
    if not 1 < values[0] <= values[-1] < 100:
        return ""
    shares = [round(value / 100, 6) for value in values]
    return f"; did you mean {shares if len(shares) > 1 else shares[0]}?"


Targets = Annotated[float | tuple[float, ...] | None, BeforeValidator(checked)]
