"""Quality against cost: every file as a point, and the Pareto front through those that nothing dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Affine2D

from rmtkd_edge.report import text
from rmtkd_edge.report.drawing import Grid, Picture, name_above, picture
from rmtkd_edge.report.palette import ink, run_colour, series_colour
from rmtkd_edge.report.pareto import Point, dominating, front

MARKERS = {"fp32": "o", "fp16": "s", "int8": "D"}
HEIGHT = 220.0  # of a panel, in points


@dataclass(frozen=True)
class Costs:
    """One panel: what every file costs, in one unit."""

    title: str
    unit: str
    points: tuple[Point, ...]

    def find(self, name: str) -> Point | None:
        """Return the point of a name, or None."""
        return next((point for point in self.points if point.name == name), None)

    @property
    def words(self) -> str:
        """The panel in words, the cheapest file first."""
        said = []
        for point in sorted(self.points, key=lambda p: p.cost):
            better = dominating(point, self.points)
            place = "on the front" if better is None else f"dominated by {better.name}"
            said.append(f"{point.name} {text.number(point.cost, 3)}, {text.score(point.scores)}, {place}")
        return f"{self.title} ({self.unit}): {'; '.join(said)}"


def front_picture(panels: Sequence[Costs], metric: str) -> Picture:
    """Return the metric against each cost, with the Pareto front."""
    caption = (
        "Up and to the left is better; numbers are those of the table. The line is the Pareto front, hollow files are "
        "dominated. Circles: fp32, squares: fp16, diamonds: int8; grey: the original. Bars: 95 % interval."
    )
    if any(point.run for panel in panels for point in panel.points):
        caption += " Files of other runs have colours of their own, and are timed in no session with these."
    said = ". ".join(panel.words for panel in panels)
    title = f"{text.title(metric)} against cost"
    return picture("front", title, said, caption, lambda narrow: _draw(panels, metric, narrow))


def _draw(panels: Sequence[Costs], metric: str, narrow: bool) -> Figure:
    columns = 1 if narrow else min(2, len(panels))
    grid = Grid(len(panels), columns, HEIGHT, left=46, bottom=34, top=20)
    figure, places = grid.subplots(narrow)
    for axes, panel in zip(places, panels, strict=True):
        _draw_panel(axes, panel, metric, grid.panel_width(narrow), HEIGHT)
    return figure


def _draw_panel(axes: Axes, panel: Costs, metric: str, width: float, height: float) -> None:
    axes.grid(axis="y", color=ink("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    best = front(panel.points)
    for point in panel.points:
        _draw_point(axes, point, on_front=point in best)
    x, y = [point.cost for point in best], [point.scores.value for point in best]
    axes.plot(x, y, color=ink("accent"), linewidth=1.2, drawstyle="steps-post", zorder=2)
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.12)
    _number(axes, panel.points, width, height)
    like = panel.points[0].scores
    axes.annotate(panel.title, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontweight="bold")
    axes.set_xlabel(panel.unit)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v * 100:g}{text.NBSP}%" if like.percent else f"{v:g}"))
    axes.yaxis.set_label_coords(-35 / width, 0.5)
    axes.set_ylabel(f"{metric}, {like.split}")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_point(axes: Axes, point: Point, on_front: bool) -> None:
    colour = ink(run_colour(point.run) if point.run else series_colour(point.name, point.role))
    if point.scores.interval:
        bar: Any = {"color": colour, "linewidth": 3, "alpha": 0.22, "solid_capstyle": "butt", "zorder": 1}
        axes.plot([point.cost, point.cost], point.scores.interval, **bar)
    face: Any = {"markersize": 6.5, "markerfacecolor": colour if on_front else ink("paper"), "markeredgecolor": colour}
    axes.plot(point.cost, point.scores.value, linestyle="", marker=MARKERS.get(point.precision, "o"), zorder=4, **face)


def _number(axes: Axes, points: Sequence[Point], width: float, height: float) -> None:
    """Write every point's number above it, one step higher wherever another number is too near.

    width, height: of the axes, in points.
    """
    place = axes.transLimits + Affine2D().scale(width, height)
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p.scores.value, p.cost)):
        x, y = place.transform(axes.transScale.transform((point.cost, point.scores.value)))
        rise = 6.0
        while any(abs(x - other) < 11 and abs(y + rise - above) < 9 for other, above in taken):
            rise += 9
        taken.append((x, y + rise))
        name_above(axes, str(point.number), (point.cost, point.scores.value), rise)
