"""One cycle: analyse -> choose ranks -> closed form -> fine-tune -> accept or roll back, each step kept once done."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmtkd_edge.compress.context import Context, State
from rmtkd_edge.compress.depth import layers_kept, layers_that_stay
from rmtkd_edge.compress.ranks.allocation import Trials, allocated
from rmtkd_edge.compress.ranks.budget import budgets_of
from rmtkd_edge.compress.ranks.cut import chooser, narrowed, own_batches, projected, spectra_of
from rmtkd_edge.compress.ranks.edge import SiteRank, pick_ranks, shrinks
from rmtkd_edge.compress.training.schedule import Schedule
from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs
from rmtkd_edge.compress.training.trainer import Trained, Training, train
from rmtkd_edge.families.base import Family, Site, list_sites
from rmtkd_edge.methods.base import Cut, Pair, Widths
from rmtkd_edge.run.records.cycle import CycleRecord, JobRecord, PlanRecord, SiteRecord, WidthRecord
from rmtkd_edge.run.records.trials import TrialsRecord

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

ATTEMPTS = 2  # trainings of a cycle: under the floor after the first, once more


@dataclass(frozen=True)
class Decision:
    """What a cycle cuts: the sites' figures, the cut, the eigenvalues that the report draws, and a warning or ""."""

    quantile: float
    sites: tuple[SiteRecord | WidthRecord, ...]
    cut: Cut
    spectra: dict[str, Tensor]
    warning: str = ""


@dataclass(frozen=True)
class Planned:
    """A cycle before its fine-tuning: the narrowed folded model and its new projections by site."""

    plan: PlanRecord
    student: Model
    new: dict[str, Tensor]


def run_cycle(context: Context, state: State, job: JobRecord, number: int) -> tuple[State, CycleRecord | None]:
    """Return the state after a cycle (the same one where it was rolled back) and its record.

    There is no record where no site would shrink by more than `stop.saturation`.
    """
    record = context.store.get_record(number)
    if record is not None and (tuple(site.name for site in record.sites), record.target) == (job.sites, job.target):
        return _accepted(context, number, record) if record.accepted else state, record
    context.report(
        "cycle_start",
        index=number,
        round=job.round,
        sites=list(job.sites),
        quantile=job.quantile,
        retry=job.retry,
    )
    planned = _kept(context, job, number) or _plan(context, state, job, number)
    if planned is None:
        return state, None
    for site in planned.plan.sites:
        context.report("site", **{("site_kind" if name == "kind" else name): v for name, v in asdict(site).items()})
    return _tune_and_judge(context, state, number, planned)


def _accepted(context: Context, number: int, record: CycleRecord) -> State:
    found = context.store.get_model(number, "accepted")
    assert found is not None, "an accepted cycle keeps its model"
    return State(*found, record.after)


def _kept(context: Context, job: JobRecord, number: int) -> Planned | None:
    """Return what an earlier process planned, if it was for this job.

    A job that was saturated passes its number on, so that a plan may belong to another one.
    """
    plan = context.store.get_plan(number)
    if plan is None or plan.job != job:
        return None
    found = context.store.get_model(number, "closed_form")
    return None if found is None else Planned(plan, found[0].to(context.accelerator.device), found[1])


def _plan(context: Context, state: State, job: JobRecord, number: int) -> Planned | None:
    clock, saturation = Clock(), context.recipe.stop.saturation
    decided = decide(context, state, job, number)
    if not shrinks(decided.sites, saturation):
        context.report("note", text=f"cycle {number}: no site would shrink by more than {saturation:.0%}")
        return None
    if decided.warning:
        context.report("note", text=f"cycle {number}: {decided.warning}")
    seconds = {"analyse": clock.lap()}
    student, new = narrowed(context, state.folded, decided.cut)
    seconds["warm_start"] = clock.lap()
    score = context.validate(student)
    plan = PlanRecord(job, decided.sites, decided.quantile, score, seconds, decided.cut.layers)
    context.store.put_model(number, "closed_form", student, new)
    context.store.put_plan(number, plan, decided.spectra)
    return Planned(plan, student, new)


def decide(context: Context, state: State, job: JobRecord, number: int) -> Decision:
    """Return what a cycle cuts: whole layers, what the method says, or what the spectra say."""
    if job.layers is not None:
        return by_widths(state, job, Widths({}, "", layers_that_stay(context, state.folded, job.layers)))
    widths = context.method.widths(state.folded.spec, context.family, context.recipe, context.step)
    return by_spectra(context, state, job, number) if widths is None else by_widths(state, job, widths)


def by_spectra(context: Context, state: State, job: JobRecord, number: int) -> Decision:
    """Return the cut that the edges of the sites' spectra give."""
    recipe, spec = context.recipe, state.folded.spec
    spectra = spectra_of(context, state.folded, job.sites)
    choose = chooser(context, spec, spectra)
    budgets, once = budgets_of(context, spec), context.from_teacher
    quantile, chosen = pick_ranks(choose, spec, recipe, job.quantile, budgets, once)
    records = [c.record(recipe.analyse.weighting) for c in chosen]
    if recipe.compress.allocation == "kl" and shrinks(records, recipe.stop.saturation):
        kept = context.store.get_trials(number)
        trials = Trials(
            context,
            state.folded,
            spectra,
            known=kept.trials if kept is not None and kept.job == job else (),
            keep=lambda trials: context.store.put_trials(number, TrialsRecord(job, trials)),
        )
        chosen = allocated(trials, chosen)
        records = [c.record(recipe.analyse.weighting) for c in chosen]
    warning = too_few_samples(chosen, context.family)
    return Decision(quantile, tuple(records), projected(chosen, context), eigenvalues(chosen), warning)


def by_widths(state: State, job: JobRecord, widths: Widths) -> Decision:
    """Return the cut to the shape that the method gives without spectra; in a layer that goes every width is 0."""

    def after(site: Site) -> int:
        gone = widths.layers is not None and site.layer is not None and site.layer not in widths.layers
        return 0 if gone else widths.by_site.get(site.name, site.width)

    records = [
        WidthRecord(site.name, site.kind, site.heads, site.width, after(site))
        for site in list_sites(state.folded.spec)
        if site.name in job.sites
    ]
    return Decision(job.quantile, tuple(records), Cut(widths.by_site, layers=widths.layers), {})


def too_few_samples(chosen: Sequence[SiteRank], family: Family) -> str:
    """Return a warning where sites have fewer samples than channels, which their ranks cannot pass; else nothing."""
    poor = [c for c in chosen if c.spectrum.n < c.spectrum.site.width]
    if not poor:
        return ""
    worst = max(poor, key=lambda c: c.spectrum.site.width)
    return (
        f"{len(poor)} sites have fewer samples than channels ({worst.name}: {worst.spectrum.n} for "
        f"{worst.spectrum.site.width}): no rank can pass the samples, so widths say little about the model; bring more "
        f"data, or raise {family.sample_keys}"
    )


def eigenvalues(chosen: Sequence[SiteRank]) -> dict[str, Tensor]:
    """Return the eigenvalues of every site, descending (heads joined)."""
    found = {f"{c.name}.eigenvalues": torch.from_numpy(c.spectrum.eigenvalues.copy()).flatten() for c in chosen}
    return {name: values.sort(descending=True)[0] for name, values in found.items()}


def fine_tune(context: Context, state: State, planned: Planned, number: int, attempt: int) -> tuple[Any, Trained]:
    """Return the student after it learned from the model that teaches it, and how that went."""
    recipe, family, data = context.recipe, context.family, context.data
    student = planned.student
    model = family.unfold(student, planned.new) if recipe.distil.through_projection else student
    model = copy.deepcopy(student) if model is student else model
    model = model.to(context.accelerator.device)
    old, layers = state.folded, planned.plan.layers
    if recipe.distil.teacher == "original":
        assert context.original is not None, "the loop has started"
        old, layers = context.original, layers_kept(context, student.spec)
    old = old.to(context.accelerator.device)
    pair = Pair(family, old, model, own_batches(context, data.warm), data.rows, layers)
    objective = context.method.objective(context.task, recipe, pair)
    model.train()
    teacher = None
    if objective.teacher:
        teacher = TeacherOutputs(old, data.rows, fresh=data.augmented, taps=objective.taps)
    seed, size = recipe.seed + 1000 * (number + 100 * attempt), recipe.distil.batch_size
    training = Training(
        schedule=Schedule.of_cycle(recipe.distil, data.steps(size)),
        objective=objective,
        epoch=lambda epoch: data.epoch(size, seed, epoch),
        validate=context.validate,
        seed=seed,
        teacher=teacher,
    )
    checkpoints = context.store.checkpoints(number, attempt)
    trained = train(model, training, context.accelerator, checkpoints, context.report)
    return (family.fold(model) if family.projections(model) else model), trained


def _tune_and_judge(context: Context, state: State, number: int, planned: Planned) -> tuple[State, CycleRecord]:
    plan, one_shot = planned.plan, context.recipe.compress.one_shot
    best, scores, steps, seconds = planned.student, plan.closed_form, 0, 0.0
    tuned_is_best = False
    for attempt in range(0 if one_shot else ATTEMPTS):
        tuned, trained = fine_tune(context, state, Planned(plan, best, planned.new), number, attempt)
        steps += trained.steps
        seconds += trained.seconds
        if trained.scores.value >= scores.value:
            best, scores, tuned_is_best = tuned, trained.scores, True
        if scores.value >= context.floor:
            break
    above = scores.value >= context.floor
    accepted = above or (context.from_teacher and not context.fallback)  # one cycle alone has nothing to go back to
    after = state.after(best, planned.new, scores) if accepted else state
    record = CycleRecord(
        index=number,
        round=plan.job.round,
        retry=plan.job.retry,
        sites=plan.sites,
        quantile=plan.quantile,
        parameters_before=state.parameters,
        parameters_after=best.spec.count_parameters(),
        before=state.scores,
        closed_form=plan.closed_form,
        after=scores,
        chosen="fine_tuned" if tuned_is_best else "closed_form",
        accepted=accepted,
        reason="" if above else f"{scores.primary} {scores.value:.4f} is under the floor {context.floor:.4f}",
        steps=steps,
        seconds={**plan.seconds, "fine_tune": round(seconds, 2)},
        target=plan.job.target,
    )
    if accepted:
        context.store.put_model(number, "accepted", after.folded, after.projections)
    context.store.put_record(number, record)
    context.report(
        "cycle_end",
        index=number,
        parameters_before=record.parameters_before,
        parameters_after=record.parameters_after,
        metric=scores.primary,
        before=state.scores.value,
        closed_form=plan.closed_form.value,
        after=scores.value,
        accepted=accepted,
        reason=record.reason,
    )
    return after, record


class Clock:
    """Seconds since the last reading."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap and start a new one."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return round(seconds, 2)
