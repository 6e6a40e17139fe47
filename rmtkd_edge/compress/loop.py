"""The loop: cycles over groups of sites, shallow to deep, round after round, until a stop rule fires.

Several targets are aimed at in turn, each from the student of the one before, so that a family of sizes costs one run;
a recipe with one target is a family of one. The loop keeps nothing in memory that it could not read again: every
finished step of every cycle is in a store, so a run that was killed replays what is there and continues with what is
not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rmtkd_edge.compress.context import Context, State
from rmtkd_edge.compress.cycle import run_cycle
from rmtkd_edge.compress.depth import DEPTH_CYCLE, depth_job
from rmtkd_edge.compress.ranks.budget import budgets_of
from rmtkd_edge.compress.ranks.order import prices
from rmtkd_edge.config.recipe import WITHOUT_QUANTILE, Recipe
from rmtkd_edge.run.records.cycle import CycleRecord, JobRecord
from rmtkd_edge.run.records.prices import PricesRecord

LATENCY = "latency_budget"


@dataclass
class Way:
    """What is still to be done, and what was found out about the sites.

    Attributes:
        held: jobs that cut less than their quantile says, since the target was near: the next target goes on with them.
        left_alone: sites whose cycles were rolled back.
        quiet: sites that would not shrink.
    """

    queue: deque[JobRecord]
    held: list[JobRecord] = field(default_factory=list)
    left_alone: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)

    def towards(self, target: float | None) -> None:
        """Turn to a target."""
        jobs = [*self.held, *self.queue]
        self.queue, self.held = deque(replace(job, target=target) for job in jobs), []
        self.quiet.clear()


def run_loop(context: Context, teacher: State) -> tuple[list[State], list[CycleRecord], str]:
    """Return the students, the records of all cycles and the name of the stop rule that ended the loop.

    Students come largest first: one for every target that was met, then the last accepted state where it meets none of
    its own. Without an accepted cycle the teacher is the one student.
    """
    context = replace(context, original=teacher.folded)
    targets = context.recipe.stop.targets
    records = list[CycleRecord]()
    state = fewer_layers(context, teacher, records)
    way = Way(jobs(context, ordered_sites(context, state)))
    all_jobs = way.queue.copy()
    students: list[State] = []
    stop = ""
    for target in targets:
        if students and target is not None and context.removed(students[-1]) >= target:
            continue  # one state meets both
        aimed = context.aiming_at(target, fallback=bool(students))
        if len(targets) > 1:
            context.report("stage", name=f"target {target:g}")
        if context.from_teacher:
            way = Way(all_jobs.copy())
        way.towards(target if len(targets) > 1 else None)
        start = teacher if context.from_teacher else state
        found, stop = reach(aimed, start, way, records)
        state = state if found is start else found
        if stop == "target_reduction":
            students.append(state)
        elif stop == "metric_floor":
            break
    if not students or state is not students[-1]:
        students.append(state)
    return students, records, stop


def fewer_layers(context: Context, teacher: State, records: list[CycleRecord]) -> State:
    """Return the state after the cycle that leaves layers out, the teacher where there is none; `records` grows."""
    job = depth_job(context, teacher.folded.spec)
    if job is None:
        return teacher
    state, record = run_cycle(context, teacher, job, DEPTH_CYCLE)
    assert record is not None, "layers that go are sites that shrink"
    records.append(record)
    return state


def reach(context: Context, state: State, way: Way, records: list[CycleRecord]) -> tuple[State, str]:
    """Return the last accepted state on the way to one target, and the stop rule that ended it; `records` grows."""
    everything = {name for job in way.queue for name in job.sites}
    stop = stop_rule(context, state)
    while way.queue and stop is None:
        job = way.queue.popleft()
        sites = tuple(name for name in job.sites if name not in way.left_alone)
        if not sites:
            continue
        state, record = run_cycle(context, state, replace(job, sites=sites), len(records) + 1)
        if record is None:
            way.quiet |= set(sites)
            way.held.append(job)
        else:
            records.append(record)
            way.quiet -= set(sites)
            if not record.accepted and not job.retry and can_be_gentler(context):
                way.queue.appendleft(gentler(context.recipe, record))
            elif not record.accepted:
                way.left_alone |= set(sites)
            elif record.quantile < job.quantile:
                way.held.append(job)
        saturated = everything <= way.quiet | way.left_alone and way.quiet
        stop = "outliers_saturated" if saturated else stop_rule(context, state)
    if stop is None:
        stop = "metric_floor" if way.left_alone else "all_sites_and_rounds"
    return state, stop


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


def can_be_gentler(context: Context) -> bool:
    """Return whether a lower quantile gives other widths: not in one cycle, at fixed ranks, by a rule without one."""
    recipe = context.recipe
    return not (context.from_teacher or recipe.compress.ranks or recipe.analyse.rule in WITHOUT_QUANTILE)


def gentler(recipe: Recipe, record: CycleRecord) -> JobRecord:
    """Return the retry of a rolled-back cycle, gentler than the quantile it used (a target may lower that)."""
    sites = tuple(site.name for site in record.sites)
    return JobRecord(record.round, sites, record.quantile * recipe.compress.retry_quantile, True, record.target)


def stop_rule(context: Context, state: State) -> str | None:
    """Return the rule that ends the loop now, or None."""
    if state.scores.value < context.floor:
        return "metric_floor"
    most_ms, measure, spec = context.recipe.stop.latency_ms, context.measure_ms, state.folded.spec
    for budget in budgets_of(context, spec):
        measured = budget.rule == LATENCY and measure is not None  # that comes before what the curves say
        if not measured and budget.left(spec) >= 0:
            return budget.rule
    return LATENCY if most_ms is not None and measure is not None and measure(state.folded) <= most_ms else None
