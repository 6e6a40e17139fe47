"""When the loop ends: the floor of the metric, the share of the parameters to remove or a family of them, budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rmtkd_edge.config.settings import Amount, Fraction, Section, Text

NO_TARGET = "none"  # TOML has no null
MEANING = (
    "Share of the teacher's parameters to remove; a list, increasing: one student at each share; `none` where only the "
    "budgets, or the quantile, decide"
)


def checked(value: Any) -> Any:
    """Return a target, a tuple of targets (a list of one is that target) or None; raise ValueError for the rest."""
    if value == NO_TARGET:
        return None
    if value is None or (_is_number(value) and 0 <= value <= 1):
        return value
    if _is_number(value):
        raise ValueError(f"a share of the parameters is from 0 to 1{_percent([value])}")
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_number, value)):
        raise ValueError(
            f'give a share of the parameters, such as 0.8, a list of them, such as [0.5, 0.7, 0.8], or "{NO_TARGET}"'
        )
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


Written = float | tuple[float, ...] | Literal["none"]
Targets = Annotated[float | tuple[float, ...] | None, BeforeValidator(checked, json_schema_input_type=Written)]


class Stop(Section):
    """When the loop ends; the first rule that holds wins and is named in the result."""

    max_drop: Fraction = Field(0.02, description="Floor: the teacher's metric on validation minus this")
    target_reduction: Targets = Field(0.809, description=MEANING)
    profile: Text | None = Field(None, description="Hardware profile whose alignment and budgets hold")
    latency_ms: Amount | None = None
    disk_mb: Amount | None = Field(None, description="Of the weights in fp32, in 10^6 bytes")
    energy_mj: Amount | None = Field(
        None, description="Gross, of one input: the watts of the profile's [power] times the latency by its curves"
    )
    saturation: Fraction = Field(0.03, description="Stop when no site would shrink by more than this share")

    @property
    def targets(self) -> tuple[float | None, ...]:
        """Return the shares of the parameters that are aimed at in turn; None is a loop without such a target."""
        found = self.target_reduction
        return found if isinstance(found, tuple) else (found,)

    @property
    def target(self) -> float | None:
        """Return the last share that is aimed at."""
        return self.targets[-1]

    @model_validator(mode="after")
    def _targets_are_in_one_unit(self) -> Stop:
        if len(self.targets) > 1 and any(x is not None for x in (self.latency_ms, self.disk_mb, self.energy_mj)):
            raise ValueError(
                f"stop.target_reduction = {list(self.targets)} names the sizes of a family, a budget "
                "(stop.latency_ms, stop.disk_mb, stop.energy_mj) one size: give one of the two"
            )
        return self
