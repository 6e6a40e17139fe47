"""Which shape would meet each target, before any spectrum is known: every width scaled by one factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.latency import predictor
from rmtkd_edge.compress.ranks.budget import Budget, budgets_of, most_left
from rmtkd_edge.compress.ranks.edge import multiple_for
from rmtkd_edge.config.hardware import HardwareProfile, graph_for
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Site, Spec, list_sites, ranks_of
from rmtkd_edge.methods.base import fixed_rank, shape_of
from rmtkd_edge.methods.students import largest_factor, scaled_widths
from rmtkd_edge.run.records.dry_run import ShapeForecast, SiteForecast, TargetForecast

SPECTRA = "the spectra decide alone: there is no target that a shape could be told from"
MEASURED = "stop.latency_ms is measured while it is compressed, and no curves of its device predict it"


@dataclass(frozen=True)
class Found:
    """The shape for one multiple, None where spectra alone decide; `fault` says why it misses the target."""

    spec: Spec | None
    how: str
    fault: str = ""
    hint: str = ""


def sites_of(context: Context, spec: Spec) -> tuple[SiteForecast, ...]:
    """Return the sites that the recipe lets be cut, with the parameters that go where one alone is cut to its least."""
    whole, found = spec.count_parameters(), []
    for site in _sites(context, spec):
        least = _widths(context, [site], 0.0, context.step)[site.name]
        gone = whole - spec.with_ranks({site.name: least}).count_parameters()
        found.append(SiteForecast(site.name, site.kind, site.heads, site.width, least, max(0, gone)))
    return tuple(found)


def target_of(context: Context, original: Spec, start: Spec, profiles: Mapping[str, HardwareProfile]) -> TargetForecast:
    """Return the shapes that would meet the context's target, one for each multiple of the profiles.

    Args:
        context: aimed at one target.
        start: what widths are cut from, with fewer tokens or layers than the original.
        profiles: hardware profiles by name, the recipe's own among them.
    """
    align = context.recipe.compress.align
    steps: dict[int, list[str]] = {context.step: []}
    for name, profile in profiles.items():
        steps.setdefault(multiple_for(context.family, profile) if align else 1, []).append(name)
    found = {step: shape_at(context, start, step) for step in steps}
    own = found[context.step]
    shapes = tuple(
        _shape(context, original, shape.spec, step, {name: profiles[name] for name in steps[step]})
        for step, shape in found.items()
        if shape.spec is not None
    )
    return TargetForecast(_aim(context), own.how, own.fault, own.hint, shapes)


def shape_at(context: Context, spec: Spec, step: int) -> Found:
    """Return the largest shape that meets the context's target, widths rounded up to multiples of `step`.

    Where none does, it is the smallest one.
    """
    recipe, method = context.recipe, context.method
    try:
        widths = method.widths(spec, context.family, recipe, step)
    except RecipeError as err:
        return Found(None, "", err.message, err.hint)
    if widths is not None:
        return Found(shape_of(context.family, spec, widths), widths.note)
    budgets, sites = budgets_of(context, spec), _sites(context, spec)
    if all(fixed_rank(recipe.compress, site) is not None for site in sites):
        return _judged(spec.with_ranks(_widths(context, sites, 1.0, step)), budgets, "widths from compress.ranks")
    if not budgets:
        return Found(None, SPECTRA if recipe.stop.latency_ms is None else MEASURED)
    settle = context.family.settle(spec, recipe.compress, context.predict_ms, step)

    def at(factor: float) -> Spec:
        return spec.with_ranks(settle(_widths(context, sites, factor, step)))

    factor = largest_factor(lambda factor: most_left(budgets, at(factor)) >= 0)
    if factor is None:
        return _judged(at(0.0), budgets, f"all {len(sites)} sites at their least")
    return Found(at(factor), f"every width scaled by {factor:.3f}; the spectra will share them out otherwise")


def _judged(shape: Spec, budgets: Sequence[Budget], how: str) -> Found:
    """Return a shape with what it misses: the loop ends with the budget that is kept first."""
    if not budgets or most_left(budgets, shape) >= 0:
        return Found(shape, how)
    nearest = max(budgets, key=lambda budget: budget.left(shape))
    told = "; it ".join(budget.told(shape) for budget in budgets)
    hint = f"--set {nearest.key}={nearest.least(shape):.3g}, or more of compress.sites"
    return Found(shape, how, f"the smallest student ({how}) {told}", hint)


def _sites(context: Context, spec: Spec) -> list[Site]:
    names = context.family.sites_to_cut(spec, context.recipe.compress)
    return [site for site in list_sites(spec) if site.name in names]


def _widths(context: Context, sites: Sequence[Site], factor: float, step: int) -> dict[str, int]:
    """Return the widths of sites scaled by a factor, but for those that the recipe fixes."""
    options = context.recipe.compress
    found = scaled_widths(sites, factor, step, options.minimum_rank)
    fixed = {site.name: fixed_rank(options, site) for site in sites}
    return found | {name: rank for name, rank in fixed.items() if rank is not None}


def _shape(
    context: Context, before: Spec, after: Spec, step: int, profiles: Mapping[str, HardwareProfile]
) -> ShapeForecast:
    family, export, parameters = context.family, context.recipe.export, after.count_parameters()
    graph = graph_for(export.graph, context.profile)
    predict: dict[str, Callable[[Spec], float]] = {
        name: curve for name, profile in profiles.items() if (curve := predictor(family, profile)) is not None
    }
    return ShapeForecast(
        profiles=tuple(profiles),
        multiple=step,
        widths=ranks_of(after),
        parameters=parameters,
        removed=1 - parameters / before.count_parameters(),
        fp32_bytes=family.file_bytes(after, "fp32", graph),
        int8_bytes=family.file_bytes(after, "int8", graph) if export.int8 else None,
        ms={name: curve(after) for name, curve in predict.items()},
        teacher_ms={name: curve(before) for name, curve in predict.items()},
    )


def _aim(context: Context) -> str:
    stop = context.recipe.stop
    share = [] if stop.target is None else [f"{stop.target:.1%} of the parameters less"]
    limits = (("MB in fp32", stop.disk_mb), ("ms", stop.latency_ms), ("mJ", stop.energy_mj))
    return " or ".join([*share, *(f"{most:g} {unit}" for unit, most in limits if most is not None)]) or "no target"
