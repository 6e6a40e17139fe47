"""`plan`: the new width of every site, from spectra and a budget."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmtkd_edge.api.analyse import Spectra
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import Spec, family_of

if TYPE_CHECKING:
    from rmtkd_edge.compress.ranks.edge import Held, Landing, SiteRank


@dataclass(frozen=True)
class Plan:
    """The new width of every site (of a head for sites with heads), and what the model is like then.

    Attributes:
        quantile: of the edge rule that gave the widths.
        latency_ms: predicted from the curves of the profile, None without them.
        settings: the sections that the spectra were taken with.
    """

    sites: tuple[SiteRank, ...]
    before: Spec
    after: Spec
    quantile: float
    latency_ms: float | None
    settings: Recipe

    @property
    def ranks(self) -> dict[str, int]:
        """Return the new width of every site by name."""
        return {chosen.name: chosen.width_after for chosen in self.sites}

    @property
    def parameters_before(self) -> int:
        """Return the number of parameters of the uncut model."""
        return self.before.count_parameters()

    @property
    def parameters_after(self) -> int:
        """Return the number of parameters of the cut model."""
        return self.after.count_parameters()

    @property
    def reduction(self) -> float:
        """Return the share of the parameters that is removed."""
        return 1 - self.parameters_after / self.parameters_before

    def __repr__(self) -> str:
        widths = ", ".join(f"{s.spectrum.site.name} {s.spectrum.site.width} -> {s.width_after}" for s in self.sites)
        sizes = f"{self.parameters_before:,} -> {self.parameters_after:,} parameters"
        return f"Plan({sizes}, {self.reduction:.1%} fewer: {widths})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(s.spectrum.site.name)}</td><td>{s.spectrum.site.width}</td><td>{s.rank}</td>"
            f"<td>{s.width_after}</td></tr>"
            for s in self.sites
        )
        head = "".join(f"<th>{name}</th>" for name in ("site", "width", "above the edge", "after"))
        caption = f"{self.parameters_before:,} to {self.parameters_after:,} parameters, {self.reduction:.1%} fewer"
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{rows}</table>"


def plan(
    spectra: Spectra,
    *,
    reduction: float | None = None,
    latency_ms: float | None = None,
    on: str | Path | HardwareProfile | None = None,
    align: int | None = None,
    quantile: float | None = None,
) -> Plan:
    """Choose the width of every site.

    Args:
        reduction: share of the parameters to remove; the edge's quantile is the one that removes it, sites whose one
            step goes beyond it apart, as in `rmtkd-edge compress`.
        latency_ms: of one input on the device `on`, by the curves that `rmtkd-edge calibrate` measured there.
        on: hardware profile, by name or path.
        align: widths are rounded up to multiples of it; the profile's when left out, else those of a usual processor.
        quantile: of the edge, where neither of the two is given; the spectra's own when left out.

    Raises:
        UserError: the sites cannot give that much, the profile has no curves, or a number makes no sense.
    """
    _check(reduction, latency_ms, on, align)
    from rmtkd_edge.compress.latency import predictor
    from rmtkd_edge.compress.ranks.edge import choose_ranks, multiple_for

    profile = on if isinstance(on, HardwareProfile) or on is None else load_profile(on)
    family = family_of(spectra.spec)
    multiple = multiple_for(family, profile) if align is None else align
    predict = predictor(family, profile)
    settle = family.settle(spectra.spec, spectra.settings.compress, predict, multiple)

    def choose(at: float, held: Held) -> list[SiteRank]:
        return choose_ranks(spectra.sites, spectra.settings, at, multiple, settle=settle, held=held)

    used = spectra.settings.analyse.quantile if quantile is None else quantile
    if reduction is not None:
        parameters = spectra.spec.count_parameters()
        most = (1 - reduction) * parameters
        used, chosen = _land(choose, lambda c: _after(spectra, c).count_parameters(), most, "{:,.0f} parameters")
    elif latency_ms is not None:
        if predict is None:
            raise UserError(
                "latency_ms needs a profile with measured curves",
                "on the device: rmtkd-edge calibrate --on PROFILE; then on= the file that it writes",
            )
        used, chosen = _land(choose, lambda c: predict(_after(spectra, c)), latency_ms, "{:.3g} ms")
    else:
        chosen = choose(used, {})
    after = _after(spectra, chosen)
    return Plan(tuple(chosen), spectra.spec, after, used, None if predict is None else predict(after), spectra.settings)


def _after(spectra: Spectra, chosen: Sequence[SiteRank]) -> Spec:
    return spectra.spec.with_ranks({c.name: c.width_after for c in chosen})


def _check(reduction: float | None, latency_ms: float | None, on: object, align: int | None) -> None:
    if reduction is not None and latency_ms is not None:
        raise UserError("reduction and latency_ms are two budgets", "give one of them")
    if reduction is not None and not 0 < reduction < 1:
        raise UserError(f"reduction is {reduction}", "a share between 0 and 1: reduction=0.8")
    if latency_ms is not None and not latency_ms > 0:
        raise UserError(f"latency_ms is {latency_ms}", "milliseconds above 0: latency_ms=5.0")
    if latency_ms is not None and on is None:
        raise UserError("latency_ms without `on`", "name the device: on= a profile that `rmtkd-edge calibrate` wrote")
    if align is not None and align < 1:
        raise UserError(f"align is {align}", "1 or more: align=8, or align=1 to round nothing")


def _land(
    choose: Landing, cost: Callable[[Sequence[SiteRank]], float], most: float, shown: str
) -> tuple[float, list[SiteRank]]:
    """Return the quantile and ranks whose model costs just less than `most`."""
    from rmtkd_edge.compress.ranks.edge import land_on_target

    used, chosen = land_on_target(choose, lambda ranks: 1 - cost(ranks) / most, 0.0, 1.0)
    if (least := cost(chosen)) > most:
        raise UserError(
            f"cutting these sites as far as the edge allows leaves {shown.format(least)}, asked for are "
            f"{shown.format(most)} at most",
            "ask for less, analyse more kinds of sites, or leave out explicit ranks",
        )
    return used, chosen
