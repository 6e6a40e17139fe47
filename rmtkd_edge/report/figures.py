"""Bars of latency, size and energy: records in, a Picture out.

Nothing is drawn that was not measured. Spectra are in spectra.py, accuracy against parameters in trade.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmtkd_edge.report import text
from rmtkd_edge.report.drawing import Grid, Picture, picture
from rmtkd_edge.report.palette import ink, series_colour
from rmtkd_edge.report.records import Profile, Quantity, energy_source
from rmtkd_edge.report.stats import median_interval
from rmtkd_edge.run.records.profile import LatencyRecord, MeasurementRecord, WorkloadRecord


@dataclass(frozen=True)
class Bar:
    """One bar: `whisker` are absolute ends; `label` is written after it."""

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
    room = 5.2 * max(len(b.label) for b in panel.bars) + 8  # points for the longest label after the longest bar
    axes.set_xlim(0, (reach or 1.0) * width / max(width - room, 0.3 * width))
    axes.set_xlabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=ink("ink"))
    axes.tick_params(axis="x", length=3)


def latency_picture(profile: Profile) -> Picture | None:
    """Return p50 per workload, or None where nothing was timed; whiskers: 95 % interval over rounds, else p90."""
    panels, medians = [], True
    for workload in profile.workloads:
        bars = []
        for result in _results(profile, workload):
            p50 = result.latency.p50
            if p50 is not None:
                whisker, exact = _whisker(result.latency, p50)
                medians &= exact
                doubt = "" if result.clean else f" ({result.verdict})"
                bars.append(Bar(result.label, result.role, p50, text.milliseconds(p50) + doubt, whisker))
        if bars:
            panels.append(Panel(text.title(str(workload)), "latency p50, ms", tuple(bars)))
    if not panels:
        return None
    exact_words = "95 % interval of the median, by resampling rounds"
    whiskers = exact_words if medians else "from the median to p90 where there is one"
    caption = f"Median latency on {profile.name}, one panel per workload, lower is better. Whiskers: {whiskers}."
    return bars_picture("latency", f"Latency on {profile.name}", caption, panels)


def _whisker(latency: LatencyRecord, p50: float) -> tuple[tuple[float, float] | None, bool]:
    interval = median_interval(latency.rounds)
    if interval is not None:
        return interval, True
    return (None if latency.p90 is None else (p50, latency.p90)), False


def _results(profile: Profile, workload: WorkloadRecord) -> list[MeasurementRecord]:
    found = (profile.find(label, workload) for label in profile.labels)
    return [result for result in found if result is not None]


def size_picture(disk: Sequence[tuple[str, str, Quantity]], profiles: Sequence[Profile]) -> Picture | None:
    """Return bytes on disk (label, role, bytes) and peak memory on each device under its heaviest workload."""
    panels = []
    files = [Bar(n, r, q.value / 1e6, text.megabytes(q.value)) for n, r, q in disk if q.value is not None]
    if files:
        panels.append(Panel("On disk (ONNX file)", "MB", tuple(files)))
    for profile in profiles:
        workload = heaviest(profile)
        found = [(r, r.memory.peak_rss_bytes) for r in (_results(profile, workload) if workload else [])]
        bars = [Bar(r.label, r.role, peak / 1e6, text.megabytes(peak)) for r, peak in found if peak is not None]
        if bars:
            panels.append(Panel(f"Peak memory, {profile.name}", f"MB, {workload}", tuple(bars)))
    caption = "What the device has to store and to hold: the file, and peak resident memory above a bare process."
    return bars_picture("size", "Disk and memory", caption, panels) if panels else None


def heaviest(profile: Profile) -> WorkloadRecord | None:
    """Return the workload with the most elements at once under which memory was measured, or None."""
    found = [r.workload for r in profile.results if r.memory.peak_rss_bytes is not None]
    return max(found, key=lambda w: (w.batch * (w.seq or 1), str(w)), default=None)


def energy_picture(profile: Profile) -> Picture | None:
    """Return gross energy per inference where a meter read it; None where none did (modelled is not measured)."""
    panels, sources = [], set()
    for workload in profile.workloads:
        bars = []
        for r in _results(profile, workload):
            joules = r.energy.j_per_inf_gross
            if joules is not None and r.energy.kind.startswith("measured"):
                bars.append(Bar(r.label, r.role, joules * 1e3, text.joules(joules)))
                sources.add(energy_source(r))
        if bars:
            panels.append(Panel(text.title(str(workload)), "energy per inference (gross), mJ", tuple(bars)))
    if not panels:
        return None
    caption = f"Energy per inference on {profile.name}, idle power included. Source: {'; '.join(sorted(sources))}."
    return bars_picture("energy", f"Energy on {profile.name}", caption, panels)
