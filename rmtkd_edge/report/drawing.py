"""What every figure shares: two layouts, fixed margins, and the way from matplotlib to SVG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmtkd_edge.report.palette import ink
from rmtkd_edge.report.svg import STYLE, inline, render, standalone

WIDE, NARROW = 9.4, 3.5  # inches at 72 points: about 900 and 336 CSS pixels


@dataclass(frozen=True)
class Picture:
    """A figure ready to be placed: its file stem, its words, and both layouts as bare SVG."""

    name: str
    title: str
    description: str
    caption: str
    wide: str
    narrow: str

    def inline(self, prefix: str) -> str:
        """Return both layouts for an HTML page, which shows one of them; ids start with `prefix` and the name."""
        parts = (("wide", self.wide), ("narrow", self.narrow))
        return "".join(
            inline(svg, f"{prefix}-{self.name}-{kind}", self.title, self.description, kind) for kind, svg in parts
        )

    def file(self) -> str:
        """Return the wide layout as an SVG file."""
        return standalone(self.wide, self.title, self.description)


@dataclass(frozen=True)
class Grid:
    """Panels of one size with fixed margins, all in points: the same in every font, and quick to lay out."""

    count: int
    columns: int
    height: float
    left: float
    bottom: float
    top: float
    right: float = 8.0
    below: float = 0.0

    @property
    def rows(self) -> int:
        """Number of rows that hold `count` panels."""
        return -(-self.count // self.columns)

    def panel_width(self, narrow: bool) -> float:
        """Return the width of a panel's axes."""
        return (NARROW if narrow else WIDE) * 72 / self.columns - self.left - self.right

    def subplots(self, narrow: bool) -> tuple[Figure, list[Axes]]:
        """Return a figure and its axes in reading order."""
        width, cell = (NARROW if narrow else WIDE) * 72, self.height + self.top + self.bottom
        height = cell * self.rows + self.below
        figure = Figure(figsize=(width / 72, height / 72))
        places = []
        for index in range(self.count):
            row, column = divmod(index, self.columns)
            x, y = width / self.columns * column + self.left, height - cell * row - self.top - self.height
            places.append(
                figure.add_axes((x / width, y / height, self.panel_width(narrow) / width, self.height / height))
            )
        return figure, places


def picture(name: str, title: str, description: str, caption: str, draw: Callable[[bool], Figure]) -> Picture:
    """Return a Picture from a function that draws it wide (False) or narrow (True)."""
    with matplotlib.rc_context(STYLE):
        return Picture(name, title, description, caption, render(draw(False)), render(draw(True)))


def name_above(axes: Axes, name: str, at: tuple[float, float], rise: float) -> None:
    """Write a point's name above it.

    Args:
        at: the point, in data coordinates.
        rise: between the point and the text, in points.
    """
    axes.annotate(
        name,
        at,
        (0, rise),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color=ink("ink"),
        zorder=6,
    )
