"""The report's figures: records in, a drawing out, each in a wide layout and a narrow one for phones.

Colours come from palette.py, text stays text, nothing is drawn that was not measured. The spectra are in spectra.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmtkd_edge.report import text
from rmtkd_edge.report.palette import ink, run_colour, series_colour
from rmtkd_edge.report.records import Compression, Cycle, Exported, Load, Measurement, Profile, Quantity
from rmtkd_edge.report.stats import accuracy_interval, median_interval
from rmtkd_edge.report.svg import STYLE, inline, render, standalone

WIDE, NARROW = 9.4, 3.5  # inches at 72 points: about 900 and 336 CSS pixels
MARKERS = "osD^vP"


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
class Bar:
    """One bar: `whisker` are absolute ends; `label` is written behind it."""

    name: str
    role: str
    value: float
    label: str
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """Bars that share an axis and a unit."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


def picture(name: str, title: str, description: str, caption: str, draw: Callable[[bool], Figure]) -> Picture:
    """Return a Picture from a function that draws it wide (False) or narrow (True)."""
    with matplotlib.rc_context(STYLE):
        return Picture(name, title, description, caption, render(draw(False)), render(draw(True)))


def bars_picture(name: str, title: str, caption: str, panels: Sequence[Panel]) -> Picture:
    """Return panels of horizontal bars from zero, each labelled with its value."""
    said = "; ".join(f"{p.title}: " + ", ".join(f"{b.name} {b.label}" for b in p.bars) for p in panels)
    return picture(name, title, said, caption, lambda narrow: _draw_bars(panels, narrow))


def _draw_bars(panels: Sequence[Panel], narrow: bool) -> Figure:
    lanes = max(len(p.bars) for p in panels)
    names = 5.3 * max(len(b.name) for p in panels for b in p.bars) + 6
    grid = Grid(len(panels), 1 if narrow else min(2, len(panels)), 19.5 * lanes, left=names, bottom=32, top=18)
    figure, places = grid.subplots(narrow)
    for axes, panel in zip(places, panels, strict=True):
        _draw_panel(axes, panel, lanes, grid.panel_width(narrow))
    return figure


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


def _draw_panel(axes: Axes, panel: Panel, lanes: int, width: float) -> None:
    reach = max([b.value for b in panel.bars] + [b.whisker[1] for b in panel.bars if b.whisker] or [1.0])
    for lane, bar in enumerate(panel.bars):
        axes.barh(lane, bar.value, height=0.66, color=ink(series_colour(bar.name, bar.role)), linewidth=0)
        end = bar.value
        if bar.whisker:
            low, high = bar.whisker
            axes.plot([low, high], [lane, lane], color=ink("ink"), linewidth=1.1, solid_capstyle="butt")
            axes.plot(
                [low, high], [lane, lane], linestyle="", marker="|", color=ink("ink"), markersize=5, markeredgewidth=1.1
            )
            end = max(end, high)
        axes.annotate(bar.label, (end, lane), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.annotate(panel.title, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontweight="bold")
    axes.set_yticks(range(len(panel.bars)), [b.name for b in panel.bars])
    axes.set_ylim(lanes - 0.4, -0.6)
    room = 5.2 * max(len(b.label) for b in panel.bars) + 8  # points for the longest label behind the longest bar
    axes.set_xlim(0, (reach or 1.0) * width / max(width - room, 0.3 * width))
    axes.set_xlabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=ink("ink"))
    axes.tick_params(axis="x", length=3)


def latency_picture(profile: Profile) -> Picture | None:
    """Return p50 latency per load, or None where nothing was timed; whiskers: 95 % interval of the median, else p90."""
    panels, medians = [], True
    for load in profile.loads:
        bars = []
        for result in _results(profile, load):
            p50 = result.latency["p50"].value
            if p50 is not None:
                whisker, exact = _whisker(result, p50)
                medians &= exact
                bars.append(Bar(result.label, result.role, p50, text.milliseconds(p50) + _doubt(result), whisker))
        if bars:
            panels.append(Panel(str(load).capitalize(), "latency p50, ms", tuple(bars)))
    if not panels:
        return None
    whiskers = "95 % interval of the median" if medians else "from the median to p90 where it could be taken"
    caption = f"Median latency on {profile.name}, one panel per load, lower is better. Whiskers: {whiskers}."
    return bars_picture("latency", f"Latency on {profile.name}", caption, panels)


def _whisker(result: Measurement, p50: float) -> tuple[tuple[float, float] | None, bool]:
    interval = median_interval(result.latency_values) if result.latency_values else None
    if interval is not None:
        return interval, True
    p90 = result.latency["p90"].value
    return (None if p90 is None else (p50, p90)), False


def _doubt(result: Measurement) -> str:
    return "" if result.clean else f" ({result.quality.get('verdict') or 'no verdict'})"


def _results(profile: Profile, load: Load) -> list[Measurement]:
    found = (profile.find(label, load) for label in profile.labels)
    return [result for result in found if result is not None]


def size_picture(disk: Sequence[tuple[str, str, Quantity]], profiles: Sequence[Profile]) -> Picture | None:
    """Return bytes on disk (label, role, bytes) beside peak memory on each device under its heaviest load."""
    panels = []
    files = [Bar(n, r, q.value / 1e6, text.megabytes(q.value)) for n, r, q in disk if q.value is not None]
    if files:
        panels.append(Panel("On disk (ONNX file)", "MB", tuple(files)))
    for profile in profiles:
        load = heaviest(profile)
        bars = []
        for result in _results(profile, load) if load else []:
            peak = result.peak_rss_bytes.value
            if peak is not None:
                bars.append(Bar(result.label, result.role, peak / 1e6, text.megabytes(peak)))
        if bars:
            panels.append(Panel(f"Peak memory, {profile.name}", f"MB, {load}", tuple(bars)))
    caption = "What the device has to store and to hold: the file that ships, and the peak resident memory above a bare process."
    return bars_picture("size", "Disk and memory", caption, panels) if panels else None


def heaviest(profile: Profile) -> Load | None:
    """Return the load with the most elements at once under which memory was measured, or None."""
    loads = [r.load for r in profile.results if r.peak_rss_bytes.value is not None]
    return max(loads, key=lambda load: (load.batch * (load.seq or 1), str(load)), default=None)


def energy_picture(profile: Profile) -> Picture | None:
    """Return energy per inference where a meter read it, gross, named with its meter; None where none did."""
    panels = []
    for load in profile.loads:
        measured = [r for r in _results(profile, load) if r.energy_measured]
        bars = [
            Bar(r.label, r.role, v * 1e3, text.joules(v)) for r in measured if (v := r.energy_gross_j.value) is not None
        ]
        if bars:
            panels.append(Panel(str(load).capitalize(), "energy per inference (gross), mJ", tuple(bars)))
    if not panels:
        return None
    sources = sorted({r.energy_gross_j.source for r in profile.results if r.energy_measured})
    caption = f"Energy per inference on {profile.name}, idle power included. Source: {'; '.join(sources)}."
    return bars_picture("energy", f"Energy on {profile.name}", caption, panels)


def trade_picture(items: Sequence[tuple[str, Compression, Exported | None]]) -> Picture | None:
    """Return accuracy against parameters over the cycles of one or several runs of one task, or None without cycles."""
    items = [item for item in items if item[1].cycles]
    if not items:
        return None
    several = len(items) > 1
    said = "; ".join(f"{name}: {_path_in_words(c)}" for name, c, _ in items)
    caption = (
        "From the teacher (right) to the student (left), numbers name the cycles. Hollow: the closed-form model before fine-tuning; "
        "crosses: rolled back; diamonds: the exported int8 file. Bars: 95 % Wilson interval of the kept points."
    )
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
        _draw_path(axes, compression, exported, colour, MARKERS[index % 6] if several else "o", name if several else "")
    floors = [c.floor.value for _, c, _ in items if c.floor.value is not None]
    for floor in sorted(set(floors)) if len(set(floors)) == 1 else []:
        axes.axhline(floor, color=ink("limit"), linestyle=(0, (4, 3)), linewidth=1.1)
        axes.annotate(f"accuracy floor {text.percent(floor)}", (0.62, floor), (0, -4), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="top", ha="center", color=ink("limit"), fontsize=8)  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 8))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v / 1e6:g}{text.NBSP}M" if v >= 1e6 else text.short_count(v))
    )
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v * 100:g}{text.NBSP}%"))
    axes.set_xlabel("parameters")
    axes.yaxis.set_label_coords(-38 / grid.panel_width(narrow), 0.5)
    axes.set_ylabel(f"{items[0][1].metric}, validation")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if several:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -34 / grid.height), ncols=1, borderaxespad=0, labelspacing=0.4)
    return figure


def _draw_path(axes: Axes, c: Compression, exported: Exported | None, colour: str, marker: str, name: str) -> None:
    rows = c.validation_rows.value
    kept = [k for k in c.cycles if k.accepted and k.accuracy_after.value is not None]
    path = [(float(k.parameters_after), _value(k)) for k in kept]
    if c.teacher_parameters.value is not None and c.teacher_accuracy.value is not None:
        path.insert(0, (c.teacher_parameters.value, c.teacher_accuracy.value))
    x, y = np.array([p[0] for p in path]), np.array([p[1] for p in path])
    axes.plot(x, y, color=colour, linewidth=1.6, marker=marker, markersize=6.5, zorder=4, label=name)
    if rows:
        for px, py in path:
            low, high = accuracy_interval(py, int(rows))
            axes.plot([px, px], [low, high], color=colour, linewidth=3.5, alpha=0.22, solid_capstyle="butt", zorder=2)
    for k in c.cycles:
        if k.accuracy_closed_form.value is not None and k.chosen != "closed_form":
            axes.plot(k.parameters_after, k.accuracy_closed_form.value, linestyle="", marker=marker, markersize=5.5,
                      markerfacecolor=ink("paper"), markeredgecolor=colour, zorder=3)  # fmt: skip
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
    _draw_int8(axes, c, exported, colour)
    if not name:
        _name_points(axes, path, kept, teacher=len(path) > len(kept))
        _name_rolled_back(axes, c)


def _sizes(c: Compression) -> float:
    """Return the largest number of parameters that the path of a run holds."""
    return max(
        [c.teacher_parameters.value or 0.0, *(float(max(k.parameters_before, k.parameters_after)) for k in c.cycles)]
    )


def _value(cycle: Cycle) -> float:
    value = cycle.accuracy_after.value
    return float("nan") if value is None else value


def _draw_int8(axes: Axes, c: Compression, exported: Exported | None, colour: str) -> None:
    int8 = exported.variants.get("int8") if exported else None
    size = exported.parameters.value if exported else None
    if int8 is None or int8.accuracy.value is None or size is None:
        return
    axes.plot(size, int8.accuracy.value, linestyle="", marker="D", markersize=5, color=ink("rmtkd-int8"),
              markeredgecolor=colour, markeredgewidth=0.8, zorder=5)  # fmt: skip


def _name_points(axes: Axes, path: list[tuple[float, float]], kept: list[Cycle], teacher: bool) -> None:
    """Write cycle numbers above their points, one step higher wherever the neighbour's number is too near."""
    names = (["teacher"] if teacher else []) + [str(k.index) for k in kept]
    span = axes.get_position().width * (axes.figure.get_figwidth() if axes.figure else 1) * 72
    last, step = -1e9, 0
    for (x, y), name in sorted(zip(path, names, strict=True)):
        at = x / axes.get_xlim()[1] * span
        step = step + 1 if at - last < 9 and step < 3 else 0
        last = at
        axes.annotate(name, (x, y), (0, 7 + 10 * step), textcoords="offset points", ha="center", va="bottom", fontsize=8,
                      color=ink("ink"), zorder=6)  # fmt: skip


def _name_rolled_back(axes: Axes, c: Compression) -> None:
    for k in c.cycles:
        if not k.accepted and k.accuracy_after.value is not None:
            axes.annotate(f"{k.index} rolled back", (k.parameters_after, k.accuracy_after.value), (8, 0), textcoords="offset points",
                          va="center", fontsize=8, color=ink("limit"))  # fmt: skip
