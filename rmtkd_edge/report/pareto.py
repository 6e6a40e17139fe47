"""Which files are worth their cost: those that no other one matches at less cost, or beats at as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rmtkd_edge.run.records.scores import Scores


@dataclass(frozen=True)
class Point:
    """One file: its cost (bytes, or ms) and what it scores.

    Attributes:
        number: of its row in the table.
        name: what it is called in the report, with the run for one of another run.
        role: `candidate` or `baseline`.
        run: 0 for the run that is reported on, from 1 for those it is held against.
        doubt: what disturbed the measurement of its cost, empty where nothing did.
    """

    number: int
    name: str
    role: str
    precision: str
    cost: float
    scores: Scores
    run: int = 0
    doubt: str = ""


def dominates(one: Point, other: Point) -> bool:
    """Return whether a file costs no more and scores no less than another one, and is better in one of the two."""
    mine, theirs = (-one.cost, one.scores.value), (-other.cost, other.scores.value)
    return mine[0] >= theirs[0] and mine[1] >= theirs[1] and mine != theirs


def dominating(point: Point, points: Sequence[Point]) -> Point | None:
    """Return what dominates a file: the best of those, and of equally good ones the cheapest; None on the front."""
    better = [other for other in points if dominates(other, point)]
    return max(better, key=lambda other: (other.scores.value, -other.cost), default=None)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the files that nothing dominates, the cheapest first."""
    kept = [point for point in points if dominating(point, points) is None]
    return sorted(kept, key=lambda point: (point.cost, point.name))
