"""Spectra as small multiples: eigenvalues, the fitted Marchenko-Pastur law and the edge of every analysed site.

Every panel counts directions over log(eigenvalue / lambda_plus), so that the edge is 1 everywhere and spikes decades
above it stay in sight; ticks below the axis are the single eigenvalues above it. Ranges differ from panel to panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from rmtkd_edge.report import text
from rmtkd_edge.report.drawing import Grid, Picture, picture
from rmtkd_edge.report.palette import ink
from rmtkd_edge.report.records import Spectra
from rmtkd_edge.report.svg import STYLE
from rmtkd_edge.run.records.cycle import CycleRecord, SiteRecord

NULL_SHARE = 1e-6  # of lambda_plus: directions that are zero up to rounding, such as the one LayerNorm removes
BINS = 34  # about as many as a panel has room for


@dataclass(frozen=True)
class Analysed:
    """A site with its eigenvalues, descending, of all heads together."""

    site: SiteRecord
    values: tuple[float, ...]

    @property
    def kept(self) -> int:
        """Number of eigenvalues above the edge."""
        return sum(value > self.site.lambda_plus for value in self.values)

    @property
    def relative(self) -> NDArray[np.float64]:
        """Eigenvalues divided by the edge, without those that are zero up to rounding."""
        found = np.asarray(self.values, dtype=np.float64) / self.site.lambda_plus
        return found[found > NULL_SHARE]


def spectra_pictures(cycles: Sequence[CycleRecord], spectra: Spectra) -> list[Picture]:
    """Return one figure per round with a panel for every site that has a spectrum and an edge."""
    found = []
    for number in sorted({c.round for c in cycles}):
        mine = [(c, s) for c in cycles if c.round == number for s in c.analysed if drawable(c, s, spectra)]
        if mine:
            found.append(_round_picture(number, [Analysed(s, spectra[c.index, s.name]) for c, s in mine]))
    return found


def drawable(cycle: CycleRecord, site: SiteRecord, spectra: Spectra) -> bool:
    """Return whether the site has eigenvalues and a positive edge to draw."""
    return bool(spectra.get((cycle.index, site.name))) and site.lambda_plus > 0


def _round_picture(number: int, sites: list[Analysed]) -> Picture:
    said = "; ".join(f"{a.site.name}: {a.kept} of {len(a.values)} eigenvalues above lambda plus" for a in sites)
    caption = (
        f"Round {number}: eigenvalues of the second moment per site, relative to its spectral edge λ₊ (dashed). Bars "
        "count directions per bin, grey within the bulk, blue above the edge; ticks mark every eigenvalue above it. "
        "The line is the fitted Marchenko–Pastur law, scaled to the directions within its support; "
        "directions that are zero up to rounding are left out."
    )
    if any(a.site.heads > 1 for a in sites):
        caption += " Sites with heads show all heads together, relative to the edge of the first."
    title = f"Activation spectra, round {number}"
    return picture(f"spectra-round-{number}", title, said, caption, lambda narrow: _draw(sites, narrow))


def spectra_figure(sites: Sequence[Analysed]) -> Figure:
    """Return a figure of its own, for a notebook, in the report's style."""
    with matplotlib.rc_context(STYLE):
        return _draw(sites, narrow=False)


def _draw(sites: Sequence[Analysed], narrow: bool) -> Figure:
    columns = min(2 if narrow else 4, len(sites))
    grid = Grid(len(sites), columns, 66 if narrow else 76, left=24, bottom=15, top=30, below=20)
    figure, places = grid.subplots(narrow)
    for axes, found in zip(places, sites, strict=True):
        _panel(axes, found, narrow)
    x = grid.left / (columns * (grid.left + grid.right + grid.panel_width(narrow)))
    figure.text(x, 0.004, "eigenvalue / λ₊, log scale", fontsize=8.5, color=ink("muted"), va="bottom")
    return figure


def _bins(found: Analysed) -> np.ndarray:
    """Return log-spaced bin ends over the site's eigenvalues relative to its edge, one of them exactly on the edge."""
    values = found.relative
    low = float(np.quantile(values, 0.01)) if values.size else 0.1
    high = float(values.max()) if values.size else 10.0
    low, high = math.log10(min(max(low, 1e-4), 0.3)), math.log10(max(high, 3.0))
    per_decade = BINS / (high - low)
    ends = np.arange(math.floor(low * per_decade) - 1, math.ceil(high * per_decade) + 2)
    return np.asarray(10.0 ** (ends / per_decade))


def _panel(axes: Axes, found: Analysed, narrow: bool) -> None:
    edges = _bins(found)
    values = np.clip(found.relative, edges[0] * 1.0001, None)
    counts, _ = np.histogram(values, edges)
    above = edges[:-1] >= 1 - 1e-9
    axes.set_xscale("log")
    for part, colour in ((~above, "bulk"), (above, "rmtkd-fp32")):
        ends = edges[: part.sum() + 1] if colour == "bulk" else edges[-part.sum() - 1 :]
        axes.stairs(counts[part], ends, fill=True, color=ink(colour), linewidth=0)
    _law(axes, found, edges)
    top = axes.get_ylim()[1]
    axes.axvline(1.0, color=ink("limit"), linestyle=(0, (3, 2)), linewidth=1.1)
    spikes = values[values > 1]
    ticks = np.column_stack([spikes, spikes, np.full(spikes.size, np.nan)]).ravel()
    heights = np.tile([-0.045 * top, -0.105 * top, np.nan], spikes.size)
    axes.plot(ticks, heights, linewidth=0.7, solid_capstyle="butt", color=ink("rmtkd-fp32"))
    axes.annotate(
        "λ₊",
        (1.0, 1.0),
        (3, -7),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=7.5,
        color=ink("limit"),
    )
    axes.set_ylim(-0.14 * top, top * 1.04)
    axes.set_xlim(edges[0], edges[-1])
    _dress(axes, found, edges, narrow)


def _law(axes: Axes, found: Analysed, edges: np.ndarray) -> None:
    """Draw how many directions the fitted law puts into a bin centred at x, scaled to those within its support.

    The law claims nothing about directions outside of (lambda_minus, lambda_plus): drawn against all of them it would
    tower over the bars wherever the spectrum is wider than it.
    """
    from rmtkd_edge.spectral import law

    edge, sigma2, q = found.site.lambda_plus, found.site.sigma2, found.site.q
    if sigma2 <= 0 or q <= 0:
        return
    low, high = law.edges(sigma2, q)
    values = found.relative * edge
    within = int(((values >= low) & (values <= high)).sum())
    half = 0.5 * math.log(edges[1] / edges[0])
    x = np.geomspace(edges[0], edges[-1], 400)
    mass = law.cdf(x * math.exp(half) * edge, sigma2, q) - law.cdf(x * math.exp(-half) * edge, sigma2, q)
    expected = within * mass / min(1.0, 1 / q)
    inside = expected > 1e-3 * max(float(expected.max()), 1e-12)
    axes.plot(x[inside], expected[inside], color=ink("ink"), linewidth=1.1)


def _dress(axes: Axes, found: Analysed, edges: np.ndarray, narrow: bool) -> None:
    axes.annotate(
        found.site.name,
        (0, 1),
        (0, 14),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8.5,
        fontweight="bold",
    )
    kept = f"{found.kept} of {len(found.values)} above λ₊"
    edge = "" if narrow else f" = {text.number(found.site.lambda_plus, 3)}"
    axes.annotate(
        kept + edge,
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7.5,
        color=ink("muted"),
    )
    decades = np.arange(math.ceil(math.log10(edges[0])), math.floor(math.log10(edges[-1])) + 1)
    step = max(1, -(-len(decades) // (4 if narrow else 6)))
    ticks = [10.0**d for d in decades if d % step == 0]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _power(v)))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.tick_params(length=2.5, pad=2, labelsize=7.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=ink("grid"), linewidth=0.7)
    axes.set_axisbelow(True)


def _power(value: float) -> str:
    """Return a power of ten as a tick: plain from 0.01 to 100, else 10 with a raised exponent."""
    exponent = round(math.log10(value))
    if -2 <= exponent <= 2:
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
