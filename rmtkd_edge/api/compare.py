"""`compare`: two measurements next to each other, of another day, device, setting or model."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.profile.across_sessions import SessionComparison, compare_files

HEADER = ("model", "workload", "a ms", "b ms", "b / a", "95 % interval", "not the same in both")


@dataclass(frozen=True)
class Compared:
    """Every model and workload that both files have: the second file over the first."""

    comparisons: tuple[SessionComparison, ...]

    def __iter__(self) -> Iterator[SessionComparison]:
        return iter(self.comparisons)

    def _repr_html_(self) -> str:
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in _row(item)) + "</tr>" for item in self)
        return f"<table><tr>{''.join(f'<th>{name}</th>' for name in HEADER)}</tr>{rows}</table>"


def _row(c: SessionComparison) -> tuple[str, ...]:
    ends = "-" if c.latency_ci95 is None else f"{c.latency_ci95[0]:.3f} to {c.latency_ci95[1]:.3f}"
    times = tuple(f"{ms:.3f}" for ms in c.latency_ms)
    return c.label, c.workload, *times, f"{c.latency_ratio:.3f}", ends, "; ".join(c.differences)


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str], *, seed: int = 0) -> Compared:
    """Compare two measurements, each profile/NAME.json of a run or a results.json of a bundle.

    Args:
        seed: of the intervals' bootstrap.

    Raises:
        UserError: a file holds no measurement, or the two share no model and workload.
    """
    return Compared(tuple(compare_files(Path(a), Path(b), seed)))
