"""The paper's figures: quality against parameters, power against speed-up, and the ablation of the quantile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmtkd_edge.report import text
from rmtkd_edge.report.drawing import Grid, Picture, picture
from rmtkd_edge.report.palette import ink, run_colour
from rmtkd_edge.report.paper.curves import Ablation
from rmtkd_edge.report.paper.record import CurveRecord, FileRecord, GroupRecord
from rmtkd_edge.report.paper.tables import value_text
from rmtkd_edge.report.summary import BASELINE

MARKERS = "osD^vPX*<>hd"
PLAIN = ("teacher", BASELINE)  # what the others are compared with, in grey


@dataclass(frozen=True)
class Dot:
    """One point: its series names colour and marker, its words are for those who do not see it."""

    series: str
    x: float
    y: float
    words: str
    whisker: float = 0.0


def quality_picture(groups: Sequence[GroupRecord]) -> Picture:
    """Return quality against parameters of one task and teacher, all methods and targets."""
    first = groups[0]
    dots = [Dot("teacher", first.teacher_parameters, first.teacher_value, f"teacher {_of(first, first.teacher_value)}")]
    for found in groups:
        for row in found.table:
            if not row.differs:
                said = f"{text.method_name(row.method)} {text.short_count(row.parameters)} {_of(first, row.value)}"
                dots.append(Dot(text.method_name(row.method), row.parameters, row.value, said, row.change_sd or 0.0))
    metric = text.metric_name(first.metric)
    title = f"{text.title(metric)} against parameters: {first.task}, teacher {first.teacher_sha256[:8]}"
    caption = (
        f"Each method's reference setting at every target, the mean over its seeds on {text.count(first.rows)} rows of "
        f"{first.split}; bars: ± the deviation over seeds. The dashed line is the teacher's {metric}."
    )

    def draw(narrow: bool) -> Figure:
        figure, axes = _scatter(dots, narrow)
        axes.axhline(first.teacher_value, color=ink("line"), linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
        axes.set_xlim(0, 1.06 * first.teacher_parameters)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: text.short_count(v)))
        axes.set_xlabel("parameters")
        axes.set_ylabel(f"{metric}, {first.split}")
        axes.yaxis.set_major_formatter(FuncFormatter(_share if first.percent else _plain))
        return figure

    return picture("quality", title, "; ".join(dot.words for dot in dots), caption, draw)


def power_picture(device: str, files: Sequence[FileRecord]) -> Picture:
    """Return power against speed-up of files on one device that a meter read."""
    read = [(f.label, f.speedup or 1.0, f.watts) for f in files if f.watts is not None]
    dots = [Dot(name, gain, watts, f"{name} {gain:.2f} times, {watts:.3g} W") for name, gain, watts in read]
    caption = (
        f"On {device}: gross energy of an inference divided by its mean latency, against how many times faster the "
        "file is than the original's fp32 file (which is at 1)."
    )

    def draw(narrow: bool) -> Figure:
        figure, axes = _scatter(dots, narrow)
        axes.set_xlabel("times faster than the original")
        axes.set_ylabel("power, W")
        axes.set_ylim(0, 1.12 * max(dot.y for dot in dots))
        return figure

    return picture("power", f"Power against speed-up on {device}", "; ".join(d.words for d in dots), caption, draw)


def quantile_picture(ablation: Ablation) -> Picture:
    """Return what goes, and the quality that is left, against the quantile for every rule."""
    first, curves = ablation.first, ablation.curves
    metric, percent = text.metric_name(first.teacher.primary), first.teacher.percent
    words = "; ".join(
        f"{curve.rule}: "
        + ", ".join(f"{p.quantile or 0:g} removes {p.reduction:.1%}, {metric} {p.value:.4f}" for p in curve.points)
        for curve in curves
    )
    caption = (
        "Runs that differ in the edge rule and its quantile alone, means over seeds. A rule without a quantile is "
        "drawn across, dotted. Dashed: the teacher."
    )

    def draw(narrow: bool) -> Figure:
        grid = Grid(
            2, 1 if narrow else 2, 150 if narrow else 190, left=56, bottom=34, top=20, below=_legend_height(curves)
        )
        figure, (gone, left) = grid.subplots(narrow)
        _curves(gone, curves, lambda point: point.reduction)
        _curves(left, curves, lambda point: point.value)
        left.axhline(first.teacher.value, color=ink("line"), linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
        quality = f"{metric}, {first.teacher.split}"
        for axes, name, share in ((gone, "parameters removed", True), (left, quality, percent)):
            _dress(axes, grid.panel_width(narrow))
            axes.set_xlabel("analyse.quantile")
            axes.set_ylabel(name)
            axes.yaxis.set_major_formatter(FuncFormatter(_share if share else _plain))
        last = left if narrow else gone
        last.legend(loc="upper left", bbox_to_anchor=(0, -36 / grid.height), ncols=1, borderaxespad=0)
        return figure

    return picture("quantile", f"Ablation of the quantile: {first.record.task.name}", words, caption, draw)


def _curves(axes: Axes, curves: Sequence[CurveRecord], get: Callable[..., float]) -> None:
    for index, curve in enumerate(curves):
        colour = ink(run_colour(index))
        y = [get(point) for point in curve.points]
        x = [point.quantile for point in curve.points if point.quantile is not None]
        if not x:
            axes.axhline(y[0], color=colour, linewidth=1.4, linestyle=(0, (1, 1.5)), label=curve.rule, zorder=3)
        else:
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(x, y, color=colour, marker=marker, markersize=5.5, linewidth=1.6, label=curve.rule, zorder=4)


def _legend_height(series: Sequence[object]) -> float:
    return 15.0 * len(series) + 8


def _scatter(dots: Sequence[Dot], narrow: bool) -> tuple[Figure, Axes]:
    names = list(dict.fromkeys(dot.series for dot in dots))
    columns = 1 if narrow else 3
    grid = Grid(1, 1, 190 if narrow else 235, left=56, bottom=34, top=10, below=_legend_height(names[::columns]))
    figure, (axes,) = grid.subplots(narrow)
    colours = [name for name in names if name not in PLAIN]
    for name in names:
        mine = [dot for dot in dots if dot.series == name]
        index = colours.index(name) if name in colours else -1
        colour, face = (ink(run_colour(index)),) * 2 if index >= 0 else (ink("original-fp32"), ink("paper"))
        x, y = [dot.x for dot in mine], [dot.y for dot in mine]
        marker = MARKERS[index % len(MARKERS)] if index >= 0 else "o"
        style: Any = {"linestyle": "", "marker": marker, "color": colour, "markersize": 7, "markerfacecolor": face}
        axes.plot(x, y, label=name, zorder=4, **style)
        for dot in mine:
            if dot.whisker:
                ends = [dot.y - dot.whisker, dot.y + dot.whisker]
                axes.plot([dot.x, dot.x], ends, color=colour, linewidth=3, alpha=0.3, zorder=2, solid_capstyle="butt")
    _dress(axes, grid.panel_width(narrow))
    axes.margins(x=0.08, y=0.12)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -36 / grid.height), ncols=columns, borderaxespad=0)
    return figure, axes


def _dress(axes: Axes, width: float) -> None:
    axes.grid(axis="y", color=ink("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_label_coords(-46 / width, 0.5)


def _share(value: float, _: int) -> str:
    return f"{value * 100:g}{text.NBSP}%"


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _of(found: GroupRecord, value: float) -> str:
    return value_text(found, value)
