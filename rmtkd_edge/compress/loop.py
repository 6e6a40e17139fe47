"""The loop: cycles over groups of sites, shallow to deep, round after round, until a stop rule fires.

The loop keeps nothing in memory that it could not read again: every finished step of every cycle is in a store, so a
run that was killed replays what is there and continues with what is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from rmtkd_edge.compress.context import Context, State
from rmtkd_edge.compress.cycle import run_cycle
from rmtkd_edge.compress.ranks.order import prices
from rmtkd_edge.config.recipe import WITHOUT_QUANTILE, Recipe
from rmtkd_edge.run.records.cycle import CycleRecord, JobRecord
from rmtkd_edge.run.records.prices import PricesRecord

MEGABYTE = 1_000_000


def run_loop(context: Context, state: State) -> tuple[State, list[CycleRecord], str]:
    """Return the last accepted state, the records of all cycles and the name of the stop rule that ended the loop."""
    queue, records = jobs(context, ordered_sites(context, state)), []
    everything = {name for job in queue for name in job.sites}
    left_alone: set[str] = set()
    quiet: set[str] = set()
    number, stop = 0, stop_rule(context, state)
    while queue and stop is None:
        job = queue.popleft()
        sites = tuple(name for name in job.sites if name not in left_alone)
        if not sites:
            continue
        state, record = run_cycle(context, state, replace(job, sites=sites), number + 1)
        if record is None:
            quiet |= set(sites)
        else:
            number += 1
            records.append(record)
            quiet -= set(sites)
            if not record.accepted and not job.retry and can_be_gentler(context.recipe):
                queue.appendleft(gentler(context.recipe, record))
            elif not record.accepted:
                left_alone |= set(sites)
        stop = "outliers_saturated" if everything <= quiet | left_alone and quiet else stop_rule(context, state)
    if stop is None:
        stop = "metric_floor" if left_alone else "all_sites_and_rounds"
    return state, records, stop


def ordered_sites(context: Context, state: State) -> list[str]:
    """Return the sites to cut: shallow to deep, or under a latency budget the cheapest first where curves tell."""
    recipe, predict = context.recipe, context.predict_ms
    names = context.family.sites_to_cut(state.folded.spec, recipe.compress)
    fixed = recipe.compress.one_shot or recipe.compress.ranks or not context.method.iterative
    if recipe.stop.latency_ms is None or fixed or predict is None:
        return names
    found = context.store.get_prices()
    if found is None:
        context.report("note", text="pricing every site: what its cut loses for each millisecond that it saves")
        found = PricesRecord(prices(context, state.folded, names, predict))
        context.store.put_prices(found)
    return [price.site for price in found.sites]


def jobs(context: Context, names: Sequence[str]) -> deque[JobRecord]:
    """Return the planned cycles: groups of sites, round after round, or all sites at once."""
    options, quantile = context.recipe.compress, context.recipe.analyse.quantile
    if options.one_shot or not context.method.iterative:
        return deque([JobRecord(1, tuple(names), quantile, False)])
    size = options.sites_per_cycle
    groups = [tuple(names[i : i + size]) for i in range(0, len(names), size)]
    return deque(JobRecord(r + 1, group, quantile, False) for r in range(options.rounds) for group in groups)


def can_be_gentler(recipe: Recipe) -> bool:
    """Return whether a lower quantile gives other widths: not in one shot, at fixed ranks, or by a rule without one."""
    options = recipe.compress
    return not (options.one_shot or options.ranks or recipe.analyse.rule in WITHOUT_QUANTILE)


def gentler(recipe: Recipe, record: CycleRecord) -> JobRecord:
    """Return the retry of a rolled-back cycle, gentler than the quantile it used (a target may lower that)."""
    sites = tuple(site.name for site in record.sites)
    return JobRecord(record.round, sites, record.quantile * recipe.compress.retry_quantile, True)


def stop_rule(context: Context, state: State) -> str | None:
    """Return the rule that ends the loop now, or None."""
    rules = context.recipe.stop
    if state.scores.value < context.floor:
        return "metric_floor"
    if rules.target_reduction is not None and 1 - state.parameters / context.teacher_parameters >= (
        rules.target_reduction
    ):
        return "target_reduction"
    if rules.disk_mb is not None and state.parameters * 4 / MEGABYTE <= rules.disk_mb:
        return "disk_budget"
    if rules.latency_ms is None:
        return None
    now = context.latency_ms(state.folded)
    return "latency_budget" if now is not None and now <= rules.latency_ms else None
