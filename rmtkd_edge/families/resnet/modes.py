"""How a ResNet's site is cut: fewer channels (`width`), thin pairs of convolutions (`factor`), or the better (`auto`).

A factor leaves everything after its convolution as it is, so it loses only what its own projection drops; a width
shrinks the next convolution too. `auto` takes the factors of a site where, at the ranks that the edge gives both, the
model then has fewer parameters *and* takes less time, by the profile's curves; without them time is
approximated by the multiply-accumulates of widths rounded up to the alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Site, list_sites
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.resnet.spec import FACTOR, ResNetSpec

DEFAULT_SITES = ("stream", "inner")
Latency = Callable[[ResNetSpec], float]


def mode_of(site: Site, options: Compress) -> str:
    """Return a site's mode: by its name, else by its kind, else `width`."""
    return options.mode.get(site.name, options.mode.get(site.kind, "width"))


def sites_to_cut(spec: ResNetSpec, options: Compress) -> list[str]:
    """Return the names of the sites of the recipe's kinds, shallow to deep; in mode `factor` those of its factors.

    Raises:
        RecipeError: `compress.mode` names a factor.
    """
    if any(name == "factor" or name.endswith(FACTOR) for name in options.mode):
        raise RecipeError(
            "compress.mode: a factor has no mode of its own", 'name its site: mode = { inner = "factor" }'
        )
    names = []
    for site in list_sites(spec, options.sites or DEFAULT_SITES):
        mode = mode_of(site, options)
        if mode != "factor":
            names.append(site.name)
        if mode != "width":
            names += [f"{place}{FACTOR}" for place in spec.producers(site.name)]
    return names


def settle(
    spec: ResNetSpec, options: Compress, latency: Latency | None, multiple: int
) -> Callable[[dict[str, int]], dict[str, int]]:
    """Return what leaves factors that save nothing uncut, and takes width or factors of a site in mode `auto`.

    Args:
        latency: predicted milliseconds of a spec; None where the device has no curves.
        multiple: channels that widths are rounded up to where multiply-accumulates approximate time.
    """
    if not set(options.mode.values()) - {"width"}:
        return lambda chosen: chosen
    takes = latency or (lambda net: rounded_macs(net, multiple))
    sites = [site for site in list_sites(spec, options.sites or DEFAULT_SITES) if mode_of(site, options) == "auto"]
    whole = {site.name: site.width for site in spec.sites()}
    before = spec.count_parameters()

    def settled(chosen: dict[str, int]) -> dict[str, int]:
        found = dict(chosen)
        for name, width in found.items():
            if name.endswith(FACTOR) and spec.with_ranks({name: width}).count_parameters() >= before:
                found[name] = whole[name]
        for site in sites:
            factors = [name for place in spec.producers(site.name) if (name := f"{place}{FACTOR}") in found]
            if site.name in found and factors:
                losers = [site.name] if factors_win(spec, found, site.name, factors, takes) else factors
                found |= {name: whole[name] for name in losers}
        return found

    return settled


def factors_win(
    spec: ResNetSpec, found: Mapping[str, int], site: str, factors: Sequence[str], latency: Latency
) -> bool:
    """Return whether a site's factors leave fewer parameters, and take less time, than its narrower width."""
    thin = spec.with_ranks({name: found[name] for name in factors})
    narrow = spec.with_ranks({site: found[site]})
    smaller = thin.count_parameters() < narrow.count_parameters()
    return smaller and latency(thin) < latency(narrow)


def rounded_macs(spec: ResNetSpec, multiple: int) -> float:
    """Return a net's multiply-accumulates, channels rounded up to the multiple (not those of the image)."""

    def rounded(width: int) -> int:
        return -(-width // multiple) * multiple

    return sum(
        c.kernel**2 * c.side**2 * (rounded(c.inputs) if c.inputs > CHANNELS else c.inputs) * rounded(c.outputs)
        for c in spec.convolutions()
    )
