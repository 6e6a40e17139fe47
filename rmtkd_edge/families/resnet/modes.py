"""How a ResNet's site is cut: fewer channels (`width`), thin pairs of convolutions (`factor`), or the better (`auto`).

A factor leaves everything behind its convolution as it is, so it loses only what its own projection drops; a width
shrinks the next convolution too. `auto` takes the factors of a site where, at the ranks that the edge gives both, the
model then has fewer parameters *and* takes less time, by the profile's curves; without them the multiply-accumulates
of widths rounded up to the alignment stand for time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rmtkd_edge.families.encoder.cost import Predict, predictor
from rmtkd_edge.compress.ranks.edge import SiteRank, check_site_names
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.resnet.spec import CHANNELS, FACTOR, ConvNetSpec
from rmtkd_edge.families.encoder.spec import Site, Spec, list_sites
from rmtkd_edge.config.recipe import Compress, Recipe

Settle = Callable[[list[SiteRank]], list[SiteRank]]


def mode_of(site: Site, options: Compress) -> str:
    """Return a site's mode: by its name, else by its kind, else `width`."""
    return options.conv_mode.get(site.name, options.conv_mode.get(site.kind, "width"))


def check(spec: Spec, options: Compress) -> None:
    """Raise RecipeError where `compress.conv_mode` names what the model has not."""
    if not options.conv_mode:
        return
    if not isinstance(spec, ConvNetSpec):
        raise RecipeError("compress.conv_mode is for ResNets; this model is an encoder", "remove the key")
    check_site_names(spec, "compress.conv_mode", options.conv_mode)
    if any(name == "factor" or name.endswith(FACTOR) for name in options.conv_mode):
        raise RecipeError(
            "compress.conv_mode: a factor has no mode of its own", 'name its site: conv_mode = { inner = "factor" }'
        )


def sites_to_cut(spec: Spec, options: Compress) -> list[str]:
    """Return the names of the sites of the recipe's kinds, shallow to deep; in mode `factor` those of its factors."""
    names = []
    for site in list_sites(spec, list(options.sites)):
        mode = mode_of(site, options)
        if mode != "factor":
            names.append(site.name)
        if mode != "width" and isinstance(spec, ConvNetSpec):
            names += [f"{place}{FACTOR}" for place in spec.producers(site.name)]
    return names


def settler(spec: Spec, recipe: Recipe, multiple: int) -> Settle:
    """Return what leaves factors that save nothing uncut, and takes width or factors of a site in mode `auto`."""
    options = recipe.compress
    if not isinstance(spec, ConvNetSpec) or not set(options.conv_mode.values()) - {"width"}:
        return lambda chosen: chosen
    latency = predictor(recipe) or (lambda net: rounded_macs(net, multiple))
    sites = [site for site in list_sites(spec, list(options.sites)) if mode_of(site, options) == "auto"]
    before = spec.count_parameters()

    def settle(chosen: list[SiteRank]) -> list[SiteRank]:
        found = {c.spectrum.site.name: c for c in chosen}
        for name, c in found.items():
            if name.endswith(FACTOR) and spec.with_ranks({name: c.width_after}).count_parameters() >= before:
                found[name] = uncut(c)
        for site in sites:
            factors = [name for place in spec.producers(site.name) if (name := f"{place}{FACTOR}") in found]
            if site.name in found and factors:
                losers = [site.name] if factors_win(spec, found, site.name, factors, latency) else factors
                found |= {name: uncut(found[name]) for name in losers}
        return list(found.values())

    return settle


def factors_win(
    spec: ConvNetSpec, found: Mapping[str, SiteRank], site: str, factors: Sequence[str], latency: Predict
) -> bool:
    """Return whether a site's factors leave fewer parameters, and take less time, than its narrower width."""
    thin = spec.with_ranks({name: found[name].width_after for name in factors})
    narrow = spec.with_ranks({site: found[site].width_after})
    smaller = thin.count_parameters() < narrow.count_parameters()
    return smaller and latency(thin) < latency(narrow)


def uncut(chosen: SiteRank) -> SiteRank:
    """Return the choice to leave a site as it is."""
    return replace(chosen, width_after=chosen.spectrum.site.width)


def rounded_macs(spec: ConvNetSpec, multiple: int) -> float:
    """Return a net's multiply-accumulates, channels rounded up to the multiple (not those of the image)."""

    def rounded(width: int) -> int:
        return -(-width // multiple) * multiple

    return sum(
        c.kernel**2 * c.side**2 * (rounded(c.inputs) if c.inputs > CHANNELS else c.inputs) * rounded(c.outputs)
        for c in spec.convolutions()
    )
