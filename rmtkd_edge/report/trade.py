"""The metric against parameters over the cycles of one or several runs, with teacher, floor and rolled-back cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmtkd_edge.report import text
from rmtkd_edge.report.drawing import Grid, Picture, name_above, picture
from rmtkd_edge.report.palette import ink, run_colour
from rmtkd_edge.report.records import Compression
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.scores import Scores

MARKERS = "osD^vP"


@dataclass(frozen=True)
class Path:
    """What one run's way from teacher to student is drawn from."""

    name: str
    compression: Compression
    exported: ExportRecord | None

    @property
    def points(self) -> list[tuple[str, int, Scores]]:
        """Name, parameters and validation scores of the teacher and every kept cycle (without cycles the student)."""
        c = self.compression
        if c.student and not c.cycles:
            kept = [("student", c.student.parameters, c.student.validation)]
        else:
            kept = [(str(k.index), k.parameters_after, k.after) for k in c.cycles if k.accepted]
        return [("teacher", c.teacher.parameters, c.teacher.validation), *kept]

    @property
    def largest(self) -> int:
        """The largest number of parameters on the way."""
        c = self.compression
        return max([c.teacher.parameters, *(max(k.parameters_before, k.parameters_after) for k in c.cycles)])

    @property
    def words(self) -> str:
        """The way in words."""
        c = self.compression
        steps = [(f"cycle {k.index}", k.parameters_after, k.after) for k in c.cycles]
        steps = [self.points[0], *steps] if steps else self.points
        said = (f"{name}: {text.short_count(n)} parameters, {text.score(s)}" for name, n, s in steps)
        return ", ".join(said)


def trade_picture(items: Sequence[Path], metric: str) -> Picture | None:
    """Return the metric against parameters on the way of one or several runs of one task, None where none has begun."""
    items = [item for item in items if item.compression.cycles or item.compression.student]
    if not items:
        return None
    several = len(items) > 1
    said = "; ".join(f"{item.name}: {item.words}" for item in items)
    caption = "From the teacher (right) to the student (left). "
    if any(item.compression.cycles for item in items):
        caption += "" if several else "Numbers name the cycles. "
        caption += "Hollow: the closed-form model before fine-tuning; crosses: rolled back; "
    caption += "diamonds: the exported int8."
    if any(scores.interval for item in items for _, _, scores in item.points):
        caption += " Bars: 95 % interval of the kept points."
    title = f"{text.title(metric)} against parameters" + (", all runs" if several else "")
    return picture("quality", title, said, caption, lambda narrow: _draw_trade(items, metric, narrow))


def _draw_trade(items: Sequence[Path], metric: str, narrow: bool) -> Figure:
    several = len(items) > 1
    legend = 16.0 * len(items) + 6 if several else 0.0
    grid = Grid(1, 1, 190 if narrow else 235, left=46, bottom=32, top=10, below=legend)
    figure, (axes,) = grid.subplots(narrow)
    axes.grid(axis="y", color=ink("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1.06 * max(item.largest for item in items))
    for index, item in enumerate(items):
        colour = ink(run_colour(index)) if several else ink("rmtkd-fp32")
        _draw_path(axes, item, colour, MARKERS[index % 6] if several else "o")
        _draw_int8(axes, item.exported, colour)
        if not several:
            _name_points(axes, item, grid.panel_width(narrow))
            _name_rolled_back(axes, item)
    floors = {item.compression.floor for item in items}
    like = items[0].compression.teacher.validation
    if len(floors) == 1 and (floor := floors.pop()) is not None:
        _draw_floor(axes, f"{metric} floor {text.metric(floor, like)}", floor)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    _dress(axes, metric, like, grid.panel_width(narrow), narrow)
    if several:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -34 / grid.height), ncols=1, borderaxespad=0, labelspacing=0.4)
    return figure


def _draw_floor(axes: Axes, label: str, floor: float) -> None:
    axes.axhline(floor, color=ink("limit"), linestyle=(0, (4, 3)), linewidth=1.1)
    axes.annotate(
        label,
        (0.62, floor),
        (0, -4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="top",
        ha="center",
        color=ink("limit"),
        fontsize=8,
    )


def _dress(axes: Axes, metric: str, like: Scores, width: float, narrow: bool) -> None:
    def millions(value: float, _: int) -> str:
        return f"{value / 1e6:g}{text.NBSP}M" if value >= 1e6 else text.short_count(value)

    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 8))
    axes.xaxis.set_major_formatter(FuncFormatter(millions))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v * 100:g}{text.NBSP}%" if like.percent else f"{v:g}"))
    axes.set_xlabel("parameters")
    axes.yaxis.set_label_coords(-33 / width, 0.5)
    axes.set_ylabel(f"{metric}, validation")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_path(axes: Axes, item: Path, colour: str, marker: str) -> None:
    path = item.points
    x, y = [n for _, n, _ in path], [scores.value for _, _, scores in path]
    axes.plot(x, y, color=colour, linewidth=1.6, marker=marker, markersize=6.5, zorder=4, label=item.name)
    for _, n, scores in path:
        if scores.interval:
            bar: Any = {"color": colour, "linewidth": 3.5, "alpha": 0.22, "solid_capstyle": "butt", "zorder": 2}
            axes.plot([n, n], scores.interval, **bar)
    hollow: Any = {"markersize": 5.5, "markerfacecolor": ink("paper"), "markeredgecolor": colour, "zorder": 3}
    for k in item.compression.cycles:
        if k.chosen != "closed_form":
            axes.plot(k.parameters_after, k.closed_form.value, linestyle="", marker=marker, **hollow)
        if not k.accepted:
            cross: Any = {"marker": "x", "color": ink("limit"), "markersize": 6.5, "zorder": 4}
            axes.plot(k.parameters_after, k.after.value, linestyle="", **cross)


def _draw_int8(axes: Axes, exported: ExportRecord | None, colour: str) -> None:
    int8 = exported.variants.get("int8") if exported else None
    if exported is None or int8 is None or int8.validation is None:
        return
    face: Any = {"color": ink("rmtkd-int8"), "markeredgecolor": colour, "markeredgewidth": 0.8}
    axes.plot(exported.parameters, int8.validation.value, linestyle="", marker="D", markersize=5, zorder=5, **face)


def _name_points(axes: Axes, item: Path, width: float) -> None:
    """Write cycle numbers above their points, one step higher wherever the neighbour's number is too near.

    width: of the axes, in points.
    """
    last, step = -1e9, 0
    for name, x, scores in sorted(item.points, key=lambda point: point[1]):
        at = x / axes.get_xlim()[1] * width
        step = step + 1 if at - last < 9 and step < 3 else 0
        last = at
        name_above(axes, name, (x, scores.value), 7 + 10 * step)


def _name_rolled_back(axes: Axes, item: Path) -> None:
    for k in item.compression.cycles:
        if not k.accepted:
            axes.annotate(
                f"{k.index} rolled back",
                (k.parameters_after, k.after.value),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=ink("limit"),
            )
