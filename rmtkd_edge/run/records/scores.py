"""What a model scores on a split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """All metrics of one model on one split.

    Attributes:
        split: `validation` or `test`.
        rows: examples that were scored.
        primary: the metric that decides.
        values: every metric by name; higher is better.
        interval: 95 % interval of the primary metric, None where it was not computed.
        percent: the primary metric is a share of one, so that it is written in percent and compared in points.
    """

    split: str
    rows: int
    primary: str
    values: dict[str, float]
    interval: tuple[float, float] | None = None
    percent: bool = True

    def __post_init__(self) -> None:
        if self.primary not in self.values:
            raise ValueError(f"no value for the primary metric {self.primary}")

    @property
    def value(self) -> float:
        """Return the primary metric."""
        return self.values[self.primary]
