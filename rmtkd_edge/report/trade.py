"""Accuracy against parameters over the cycles of one or several runs, with teacher, floor and rolled-back cycles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmtkd_edge.report import text
from rmtkd_edge.report.drawing import Grid, Picture, picture
from rmtkd_edge.report.palette import ink, run_colour
from rmtkd_edge.report.records import Compression, Exported
from rmtkd_edge.report.stats import accuracy_interval

MARKERS = "osD^vP"


def trade_picture(items: Sequence[tuple[str, Compression, Exported | None]]) -> Picture | None:
    """Return accuracy against parameters over the cycles of one or several runs of one task, or None without cycles."""
    items = [item for item in items if item[1].cycles]
    if not items:
        return None
    several = len(items) > 1
    said = "; ".join(f"{name}: {_path_in_words(c)}" for name, c, _ in items)
    caption = "From the teacher (right) to the student (left)" + (". " if several else ", numbers name the cycles. ")
    caption += "Hollow: the closed-form model before fine-tuning; crosses: rolled back; diamonds: the exported int8. "
    caption += "Bars: 95 % Wilson interval of the kept points."
    title = "Accuracy against parameters" + (", all runs" if several else "")
    return picture("accuracy", title, said, caption, lambda narrow: _draw_trade(items, narrow, several))


def _path_in_words(c: Compression) -> str:
    def point(parameters: float | None, accuracy: float | None) -> str:
        size = "?" if parameters is None else text.short_count(parameters)
        return f"{size} parameters, {'accuracy not measured' if accuracy is None else text.percent(accuracy)}"

    cycles = [f"cycle {k.index}: {point(k.parameters_after, k.accuracy_after.value)}" for k in c.cycles]
    return ", ".join([f"teacher: {point(c.teacher_parameters.value, c.teacher_accuracy.value)}", *cycles])


def _draw_trade(items: Sequence[tuple[str, Compression, Exported | None]], narrow: bool, several: bool) -> Figure:
    legend = 16.0 * len(items) + 6 if several else 0.0
    grid = Grid(1, 1, 190 if narrow else 235, left=46, bottom=32, top=10, below=legend)
    figure, (axes,) = grid.subplots(narrow)
    axes.grid(axis="y", color=ink("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1.06 * max(_sizes(c) for _, c, _ in items))
    for index, (name, compression, exported) in enumerate(items):
        colour = ink(run_colour(index)) if several else ink("rmtkd-fp32")
        mark, shown = (MARKERS[index % 6], name) if several else ("o", "")
        _draw_path(axes, compression, colour, mark, shown)
        _draw_int8(axes, exported, colour)
        if not several:
            _name_points(axes, compression, grid.panel_width(narrow))
            _name_rolled_back(axes, compression)
    floors = [c.floor.value for _, c, _ in items if c.floor.value is not None]
    for floor in sorted(set(floors)) if len(set(floors)) == 1 else []:
        axes.axhline(floor, color=ink("limit"), linestyle=(0, (4, 3)), linewidth=1.1)
        axes.annotate(
            f"accuracy floor {text.percent(floor)}",
            (0.62, floor),
            (0, -4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="top",
            ha="center",
            color=ink("limit"),
            fontsize=8,
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 8))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v / 1e6:g}{text.NBSP}M" if v >= 1e6 else text.short_count(v))
    )
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v * 100:g}{text.NBSP}%"))
    axes.set_xlabel("parameters")
    axes.yaxis.set_label_coords(-33 / grid.panel_width(narrow), 0.5)
    axes.set_ylabel(f"{items[0][1].metric}, validation")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if several:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -34 / grid.height), ncols=1, borderaxespad=0, labelspacing=0.4)
    return figure


def _path(c: Compression) -> list[tuple[str, float, float]]:
    """Return (name, parameters, accuracy) of the teacher and of every kept cycle, as far as they were measured."""
    points = [("teacher", c.teacher_parameters.value, c.teacher_accuracy.value)]
    points += [(str(k.index), float(k.parameters_after), k.accuracy_after.value) for k in c.cycles if k.accepted]
    return [(name, x, y) for name, x, y in points if x is not None and y is not None]


def _draw_path(axes: Axes, c: Compression, colour: str, marker: str, name: str) -> None:
    rows, path = c.validation_rows.value, _path(c)
    x, y = np.array([p[1] for p in path]), np.array([p[2] for p in path])
    axes.plot(x, y, color=colour, linewidth=1.6, marker=marker, markersize=6.5, zorder=4, label=name)
    if rows:
        for _, px, py in path:
            low, high = accuracy_interval(py, int(rows))
            axes.plot([px, px], [low, high], color=colour, linewidth=3.5, alpha=0.22, solid_capstyle="butt", zorder=2)
    for k in c.cycles:
        if k.accuracy_closed_form.value is not None and k.chosen != "closed_form":
            axes.plot(
                k.parameters_after,
                k.accuracy_closed_form.value,
                linestyle="",
                marker=marker,
                markersize=5.5,
                markerfacecolor=ink("paper"),
                markeredgecolor=colour,
                zorder=3,
            )
        if not k.accepted and k.accuracy_after.value is not None:
            axes.plot(
                k.parameters_after,
                k.accuracy_after.value,
                linestyle="",
                marker="x",
                color=ink("limit"),
                markersize=6.5,
                zorder=4,
            )


def _sizes(c: Compression) -> float:
    """Return the largest number of parameters that the path of a run holds."""
    return max(
        [c.teacher_parameters.value or 0.0, *(float(max(k.parameters_before, k.parameters_after)) for k in c.cycles)]
    )


def _draw_int8(axes: Axes, exported: Exported | None, colour: str) -> None:
    int8 = exported.variants.get("int8") if exported else None
    size = exported.parameters.value if exported else None
    if int8 is None or int8.accuracy.value is None or size is None:
        return
    axes.plot(
        size,
        int8.accuracy.value,
        linestyle="",
        marker="D",
        markersize=5,
        color=ink("rmtkd-int8"),
        markeredgecolor=colour,
        markeredgewidth=0.8,
        zorder=5,
    )


def _name_points(axes: Axes, c: Compression, width: float) -> None:
    """Write cycle numbers above their points, one step higher wherever the neighbour's number is too near.

    width: of the axes, in points.
    """
    last, step = -1e9, 0
    for name, x, y in sorted(_path(c), key=lambda point: point[1]):
        at = x / axes.get_xlim()[1] * width
        step = step + 1 if at - last < 9 and step < 3 else 0
        last = at
        axes.annotate(
            name,
            (x, y),
            (0, 7 + 10 * step),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=ink("ink"),
            zorder=6,
        )


def _name_rolled_back(axes: Axes, c: Compression) -> None:
    for k in c.cycles:
        if not k.accepted and k.accuracy_after.value is not None:
            axes.annotate(
                f"{k.index} rolled back",
                (k.parameters_after, k.accuracy_after.value),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=ink("limit"),
            )
