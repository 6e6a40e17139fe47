"""The RMT-KD loop: cycles over sites, shallow to deep, round after round, until a stop rule fires.

The loop itself keeps nothing in memory that it could not read again: every finished step of every cycle is in a
`Store`, so a run that was killed replays what is there and goes on with what is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from rmtkd_edge.compress import cycle as steps
from rmtkd_edge.families.resnet.sources import modes
from rmtkd_edge.compress.ranks.allocation import allocated
from rmtkd_edge.compress.cycle import Clock, Job, State
from rmtkd_edge.compress.data import Data
from rmtkd_edge.families.encoder.cost import Predict
from rmtkd_edge.compress.ranks.order import prices
from rmtkd_edge.compress.ranks.edge import SiteRank
from rmtkd_edge.compress.training.trainer import Checkpoints, accuracy
from rmtkd_edge.families.ops import Model
from rmtkd_edge.families.encoder.spec import list_sites
from rmtkd_edge.config.recipe import WITHOUT_QUANTILE, Recipe

MEGABYTE = 1_000_000


class Store(Protocol):
    """What a loop needs of a run directory; every `put` is atomic and every `get` returns None until then."""

    def get_record(self, number: int) -> dict[str, Any] | None: ...
    def put_record(self, number: int, record: dict[str, Any]) -> None: ...
    def get_plan(self, number: int) -> dict[str, Any] | None: ...
    def put_plan(self, number: int, plan: dict[str, Any], spectra: dict[str, Tensor]) -> None: ...
    def get_model(self, number: int, name: str) -> tuple[Model, dict[str, Tensor]] | None: ...
    def put_model(self, number: int, name: str, folded: Model, projections: dict[str, Tensor]) -> None: ...
    def checkpoints(self, number: int, attempt: int) -> Checkpoints: ...
    def get_order(self) -> list[dict[str, Any]] | None: ...
    def put_order(self, prices: list[dict[str, Any]]) -> None: ...


@dataclass(frozen=True)
class Context:
    """What stays the same over a whole loop."""

    recipe: Recipe
    data: Data
    accelerator: Any
    store: Store
    report: Callable[..., None]
    multiple: int
    teacher_parameters: int
    teacher_accuracy: float
    measure_latency_ms: Callable[[Any], float] | None = None
    predict_latency_ms: Predict | None = None

    @property
    def floor(self) -> float:
        """Return the accuracy under which a cycle is rolled back."""
        return self.teacher_accuracy - self.recipe.stop.max_accuracy_drop


def ordered_sites(context: Context, state: State) -> list[str]:
    """Return the sites to cut: shallow to deep, or under a latency budget the cheapest first where curves tell."""
    names, recipe, predict = modes.sites_to_cut(state.folded.spec, context.recipe.compress), context.recipe, None
    if recipe.stop.latency_ms is not None and not (recipe.compress.one_shot or recipe.compress.ranks):
        predict = context.predict_latency_ms
    if predict is None:
        return names
    found = context.store.get_order()
    if found is None:
        context.report("note", text="pricing every site: what its cut loses for each millisecond that it saves")
        priced = prices(
            state, names, context.data, recipe, context.accelerator, context.multiple, predict, context.report
        )
        found = [price.facts() for price in priced]
        context.store.put_order(found)
    return [price["site"] for price in found]


def jobs(recipe: Recipe, names: list[str]) -> deque[Job]:
    """Return the planned cycles: all sites at once for `one_shot`, else groups of sites, round after round."""
    options = recipe.compress
    if options.one_shot:
        return deque([Job(1, tuple(names), recipe.analyse.quantile)])
    size = options.sites_per_cycle
    groups = [tuple(names[i : i + size]) for i in range(0, len(names), size)]
    return deque(Job(r + 1, group, recipe.analyse.quantile) for r in range(options.rounds) for group in groups)


def run_loop(context: Context, state: State) -> tuple[State, list[dict[str, Any]], str]:
    """Return the last accepted state, the records of all cycles and the name of the stop rule that ended the loop."""
    queue, records = jobs(context.recipe, ordered_sites(context, state)), []
    everything = {name for job in queue for name in job.sites}
    left_alone: set[str] = set()
    quiet: set[str] = set()
    number, stop = 0, stop_rule(context, state)
    while queue and stop is None:
        job = queue.popleft()
        sites = tuple(name for name in job.sites if name not in left_alone)
        if not sites:
            continue
        number += 1
        job = Job(job.round, sites, job.quantile, job.retry)
        state, record = run_cycle(context, state, job, number)
        if record["saturated"]:
            quiet |= set(sites)
            number -= 1
        else:
            records.append(record)
            quiet -= set(sites)
            if not record["accepted"] and not job.retry and can_be_gentler(context.recipe):
                queue.appendleft(gentler(context.recipe, job, record))
            elif not record["accepted"]:
                left_alone |= set(sites)
        stop = "outliers_saturated" if everything <= quiet | left_alone and quiet else stop_rule(context, state)
    if stop is None:
        stop = "accuracy_floor" if left_alone else "all_sites_and_rounds"
    return state, records, stop


def can_be_gentler(recipe: Recipe) -> bool:
    """Return whether a lower quantile gives other widths: not in one shot, at fixed ranks, or by a rule without one."""
    options = recipe.compress
    return not (options.one_shot or options.ranks or recipe.analyse.rule in WITHOUT_QUANTILE)


def gentler(recipe: Recipe, job: Job, record: dict[str, Any]) -> Job:
    """Return the retry of a rolled-back cycle, gentler than the quantile it used (a target may lower that)."""
    used = record["quantile"]
    return Job(job.round, tuple(s["name"] for s in record["sites"]), used * recipe.compress.retry_quantile, True)


def stop_rule(context: Context, state: State) -> str | None:
    """Return the rule that ends the loop now, or None."""
    rules = context.recipe.stop
    gone = 1 - steps.parameters(state) / context.teacher_parameters
    if state.accuracy < context.floor:
        return "accuracy_floor"
    if rules.target_reduction is not None and gone >= rules.target_reduction:
        return "target_reduction"
    if rules.disk_mb is not None and steps.parameters(state) * 4 / MEGABYTE <= rules.disk_mb:
        return "disk_budget"
    now = latency_ms(context, state) if rules.latency_ms is not None else None
    return "latency_budget" if now is not None and rules.latency_ms is not None and now <= rules.latency_ms else None


def latency_ms(context: Context, state: State) -> float | None:
    """Return the present model's latency on the budget's device: measured where it is this machine, else predicted."""
    if context.measure_latency_ms is not None:
        return context.measure_latency_ms(state.folded)
    return None if context.predict_latency_ms is None else context.predict_latency_ms(state.folded.spec)


def run_cycle(context: Context, state: State, job: Job, number: int) -> tuple[State, dict[str, Any]]:
    """Return the state after a cycle (the same one where it was rolled back) and its record."""
    record = context.store.get_record(number)
    if record is None or tuple(s["name"] for s in record["sites"]) != job.sites:
        return _new_cycle(context, state, job, number)
    if record["accepted"]:
        found = context.store.get_model(number, "accepted")
        assert found is not None, "an accepted cycle keeps its model"
        state = State(*found, record["accuracy_after"])
    return state, record


def _new_cycle(context: Context, state: State, job: Job, number: int) -> tuple[State, dict[str, Any]]:
    recipe, report, clock = context.recipe, context.report, Clock()
    report("cycle_start", index=number, round=job.round, sites=list(job.sites), quantile=job.quantile, retry=job.retry)
    mine = {"round": job.round, "retry": job.retry, "start": job.quantile, "names": list(job.sites)}
    plan = context.store.get_plan(number)
    if plan is not None and plan.get("job") != mine:
        plan = None  # of a job that got this number after a saturated one, in a run that was killed then
    closed = context.store.get_model(number, "closed_form") if plan is not None else None
    if plan is None or closed is None:
        sites = [s for s in list_sites(state.folded.spec) if s.name in job.sites]
        spectra = steps.spectra_of(state, sites, context.data, recipe, context.accelerator)
        quantile, chosen = steps.pick_ranks(
            state, spectra, recipe, job.quantile, context.multiple, context.teacher_parameters
        )
        if recipe.compress.allocation == "answers" and steps.shrinks(chosen, recipe.stop.saturation):
            chosen = allocated(
                state, spectra, chosen, context.data, recipe, context.accelerator, context.multiple,
                context.teacher_parameters, report,
            )  # fmt: skip
        facts = [c.facts(recipe.analyse.weighting if c.spectrum.site.kind != "ffn" else "none") for c in chosen]
        if not steps.shrinks(chosen, recipe.stop.saturation):
            report("note", text=f"cycle {number}: no site would shrink by more than {recipe.stop.saturation:.0%}")
            return state, {"saturated": True, "sites": facts}
        few = too_few_samples(chosen, recipe)
        if few:
            report("note", text=f"cycle {number}: {few}")
        seconds = {"analyse": clock.lap()}
        student, new = steps.closed_form(state, chosen, context.data, recipe, context.accelerator)
        seconds["warm_start"] = clock.lap()
        score = accuracy(student, context.data.validation(), context.accelerator)
        plan = {"job": mine, "sites": facts, "quantile": quantile, "accuracy_closed_form": score, "seconds": seconds}
        context.store.put_model(number, "closed_form", student, new)
        context.store.put_plan(number, plan, spectra_tensors(chosen))
    else:
        student, new = closed
        student = student.to(context.accelerator.device)
    for site in plan["sites"]:
        report("site", **{("site_kind" if key == "kind" else key): value for key, value in site.items()})
    return _tune_and_judge(context, state, job, number, plan, student, new)


def too_few_samples(chosen: list[SiteRank], recipe: Recipe) -> str:
    """Return a warning where sites have fewer samples than channels, which their ranks cannot pass; else nothing."""
    poor = [c for c in chosen if c.spectrum.n < c.spectrum.site.width]
    if not poor:
        return ""
    worst = max(poor, key=lambda c: c.spectrum.site.width)
    text = "analyse.maximum_rows or analyse.tokens_per_sequence"
    key = "analyse.pixels_per_image" if recipe.task.kind == "image" else text
    return (
        f"{len(poor)} sites have fewer samples than channels ({worst.spectrum.site.name}: {worst.spectrum.n} for "
        f"{worst.spectrum.site.width}): no rank can pass the samples, so widths say little of the model; bring more "
        f"data, or raise {key}"
    )


def spectra_tensors(chosen: list[SiteRank]) -> dict[str, Tensor]:
    """Return what the report draws: the eigenvalues of every site, descending (heads joined)."""
    import torch

    return {
        f"{c.spectrum.site.name}.eigenvalues": torch.from_numpy(c.spectrum.eigenvalues.copy())
        .flatten()
        .sort(descending=True)[0]
        for c in chosen
    }


def _tune_and_judge(context, state, job, number, plan, student, new) -> tuple[State, dict[str, Any]]:
    best, score, chosen, taken, why = student, plan["accuracy_closed_form"], "closed_form", 0, ""
    seconds = 0.0
    if not context.recipe.compress.one_shot:
        for attempt in range(2):  # under the floor after the first: once more, and if it stays there, roll back
            tuned, trained = steps.fine_tune(
                best, state, new, context.data, context.recipe, context.accelerator,
                context.store.checkpoints(number, attempt), number + 100 * attempt, context.report,
            )  # fmt: skip
            taken += trained.steps
            seconds += trained.seconds
            if trained.accuracy >= score:
                best, score, chosen = tuned, trained.accuracy, "fine_tuned"
            if score >= context.floor:
                break
    above = score >= context.floor
    accepted = above or context.recipe.compress.one_shot  # one shot has nothing to go back to: it is judged by the user
    if not above:
        why = f"accuracy {score:.4f} is under the floor {context.floor:.4f}"
    after = steps.with_new(state, best, new, score) if accepted else state
    record = {
        "index": number, "round": job.round, "retry": job.retry, "saturated": False, "sites": plan["sites"],
        "quantile": plan["quantile"],
        "parameters_before": steps.parameters(state), "parameters_after": best.parameter_count(),
        "accuracy_before": state.accuracy, "accuracy_closed_form": plan["accuracy_closed_form"],
        "accuracy_after": score,
        "chosen": chosen, "accepted": accepted, "reason": why, "steps": taken,
        "seconds": {**plan["seconds"], "fine_tune": round(seconds, 2)},
    }  # fmt: skip
    if accepted:
        context.store.put_model(number, "accepted", after.folded, after.projections)
    context.store.put_record(number, record)
    context.report("cycle_end", **{k: v for k, v in record.items() if k != "sites"})
    return after, record
