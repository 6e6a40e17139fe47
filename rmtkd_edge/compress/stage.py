"""`rmtkd-edge compress`: from a recipe to a compressed checkpoint in a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.compress.context import Context, Report
from rmtkd_edge.compress.data import Data, in_order, make_data
from rmtkd_edge.compress.depth import check_depth
from rmtkd_edge.compress.final import final_scores
from rmtkd_edge.compress.held_out import held_out_before, held_out_of, seen_before
from rmtkd_edge.compress.latency import Measure, energy_predictor
from rmtkd_edge.compress.learnt import baseline_value, chance, check_loaded, check_trained
from rmtkd_edge.compress.loop import run_loop
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.ranks.edge import check_site_names, multiple_for
from rmtkd_edge.compress.result import members_of, missed_targets, result_of
from rmtkd_edge.compress.resume import forget_damaged
from rmtkd_edge.compress.store import RunCheckpoints, RunStore
from rmtkd_edge.compress.training.evaluate import evaluate, with_reference
from rmtkd_edge.compress.training.schedule import Schedule
from rmtkd_edge.compress.training.trainer import Training, train
from rmtkd_edge.compress.vocabulary import start
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.families.base import Family, Spec, find_family, list_sites
from rmtkd_edge.families.store import load_model, save_model
from rmtkd_edge.methods.base import Method, Objective, find_method
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.freshness import refuse_other_rows
from rmtkd_edge.run.outputs import Outputs, write_outputs
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.data import describe
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.teacher import TeacherRecord
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.tasks.base import Batch, Dataset, Task, find_task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model

LOGGED = 50  # steps between two losses in the log


@dataclass(frozen=True)
class Prepared:
    """What can be read, and refused, before a run directory is made or replaced."""

    family: Family
    task: Task[Any]
    method: Method
    dataset: Dataset[Any]
    data: Data
    accelerator: Accelerator
    profile: HardwareProfile | None
    multiple: int

    def judged_by(self, teacher: Model, recipe: Recipe) -> Prepared:
        """Return the same with the teacher's outputs as targets, of a task that has such."""
        found = with_reference(self.dataset, self.task, teacher, self.accelerator)
        return self if found is self.dataset else replace(self, dataset=found, data=make_data(self.task, found, recipe))

    def score(self, model: Model, recipe: Recipe, split: str, interval: bool = False) -> Scores:
        """Return a model's scores on `validation` or `test`."""
        metric, model = recipe.task.metric, model.to(self.accelerator.device)
        return evaluate(model, self.task, self.batches(split), self.accelerator, split, metric, interval)

    def batches(self, split: str) -> Iterable[Batch]:
        """Return the rows of `validation` or `test` in order."""
        rows = self.dataset.validation if split == "validation" else self.dataset.test
        return in_order(self.task, self.dataset, rows)()


def prepare(recipe: Recipe, data: Path | None) -> Prepared:
    """Return device, data and what the recipe names; raise RecipeError, DataError or UserError."""
    family, task = find_family(recipe.model.family), find_task(recipe.task.kind)
    method = find_method(recipe.compress.method)
    method.check(recipe, family)
    if recipe.stop.latency_ms is not None and recipe.stop.profile is None:
        raise RecipeError(
            "stop.latency_ms needs stop.profile, the device that it holds on", "--set stop.profile=local-cpu"
        )
    profile = None if recipe.stop.profile is None else load_profile(recipe.stop.profile)
    if recipe.stop.energy_mj is not None and energy_predictor(family, profile) is None:
        raise RecipeError(
            "stop.energy_mj needs stop.profile with measured curves, and with idle_watts and active_watts_per_core in "
            "its section [power]",
            "on the device: rmtkd-edge calibrate --on PROFILE; then stop.profile= the file that it writes",
        )
    accelerator = make_accelerator(recipe.train.precision)
    normalisation = family.source_normalisation(recipe)
    dataset = task.load(recipe, data, source_normalisation=normalisation)
    if recipe.task.unlabelled is not None and dataset.distilled is None:
        raise RecipeError(f"the task {task.name} reads no rows without labels", "leave task.unlabelled out")
    batches = make_data(task, dataset, recipe)
    return Prepared(family, task, method, dataset, batches, accelerator, profile, multiple_for(family, profile))


def compress_run(
    run: Run,
    recipe: Recipe,
    *,
    data: Path | None,
    reporter: Reporter,
    measure_ms: Measure | None = None,
    prepared: Prepared | None = None,
) -> CompressRecord:
    """Run, or continue, a recipe's compression in a run directory and return compress/result.json.

    Args:
        data: the user's rows, which come before the recipe's data set.
        measure_ms: latency of a folded model on this machine, for a latency budget.
        prepared: saves reading the data again.

    Raises:
        DataError, UserError, TrainingError
        RunDirError: the rows are not those that the run was begun with.
    """
    began = time.monotonic()
    ready = prepared or prepare(recipe, data)
    again = f"restore the data, or add --force to begin again ({run.path})"
    refuse_other_rows(run, ready.dataset.digests, "; ".join(ready.dataset.notes[:1]), again)
    run.read_only = not ready.accelerator.is_main_process
    report = _logger(run, reporter)
    source = str(data.resolve()) if data else None
    run.mark("compress", "running", data=source, rows=dict(ready.dataset.digests))
    for note in forget_damaged(run):
        report("note", text=note)
    _keep_summary(run, ready, report)
    layout.keep_device(run, recipe)
    _keep_preprocessing(run, ready)
    ready, model, teacher = _teacher(run, recipe, ready, report)
    notes = [*ready.dataset.notes, *_check_cut(model.spec, recipe, ready, report)]
    begin = start(run, recipe, ready, model, teacher.validation, data)
    if begin.vocabulary:
        report("note", text=begin.vocabulary.describe())
        notes.append(begin.vocabulary.describe())
    context = Context(
        recipe=ready.method.settings(recipe),
        family=ready.family,
        task=ready.task,
        method=ready.method,
        data=begin.ready.data,
        accelerator=ready.accelerator,
        store=RunStore(run),
        report=report,
        multiple=ready.multiple,
        teacher_parameters=teacher.parameters,
        teacher_scores=teacher.validation,
        profile=ready.profile,
        measure_ms=measure_ms,
    )
    if recipe.stop.latency_ms is not None and measure_ms is None and context.predict_ms is not None:
        report("note", text="the latency budget is kept by the curves of its device; `profile` there measures it")
    states, cycles, stop = run_loop(context, begin.state)
    report("stop", rule=stop)
    scored = final_scores(recipe, ready, begin.ready, model, teacher, states)
    teacher, students, (targets, of_teacher, *outputs) = scored
    # where an earlier process did a part of it, its finished steps count too
    spent = max(time.monotonic() - began, teacher.seconds + sum(sum(c.seconds.values()) for c in cycles))
    members = members_of(context, states, students)
    result = result_of(context, ready.dataset, teacher, members, cycles, stop)
    if missed := missed_targets(result):
        report("note", text=missed)
        notes.append(missed)
    named = {member.name: found for member, found in zip(members, outputs, strict=True)}
    if not_kept := write_outputs(run, Outputs(targets, of_teacher, named)):
        report("note", text=not_kept)
        notes.append(not_kept)
    result = replace(result, seconds=round(spent, 1), notes=tuple(notes), vocabulary=begin.vocabulary)
    for member, state in zip(members, states, strict=True):
        best = ready.family.unfold(state.folded.cpu(), state.projections)
        save_model(run, layout.student(member.name).checkpoint, best)
    run.write_record(layout.RESULT, result)
    scores = result.student.validation
    facts = {"metric": scores.primary, "value": scores.value, "parameters": result.student.parameters}
    if not run.read_only:
        run.record(layout.LOG)
    run.mark("compress", "done", stop=stop, **facts)
    return result


def _keep_summary(run: Run, ready: Prepared, report: Report) -> None:
    """Say what was read, and write it once."""
    summary = ready.task.summary(ready.dataset)
    for line in describe(summary):
        report("data", text=line)
    for note in summary.notes:
        report("note", text=note)
    if not run.has(layout.DATA):
        run.write_record(layout.DATA, summary)


def _keep_preprocessing(run: Run, ready: Prepared) -> None:
    if run.read_only or any(rel.startswith(f"{layout.PREPROCESSING}/") for rel in run.manifest["files"]):
        return
    folder = run.path_of(layout.PREPROCESSING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ready.task.save_preprocessing(ready.dataset, folder)
    except OSError as err:
        raise RunDirError(f"cannot write {folder}: {err.strerror or err}", "free space, or another --out") from err
    run.record(layout.PREPROCESSING)


def _check_cut(spec: Spec, recipe: Recipe, ready: Prepared, report: Report) -> Sequence[str]:
    """Raise RecipeError for sites that the model has not; return what the result must say of its widths."""
    check_sites(spec, recipe, ready.family)
    check_depth(spec, recipe, ready.method)
    options, notes = recipe.compress, []
    for target in recipe.stop.targets:
        aimed, step = recipe.aiming_at(target), ready.multiple if options.align else 1
        if (widths := ready.method.widths(spec, ready.family, aimed, step)) is not None:
            report("note", text=widths.note)
            notes.append(widths.note)
    if kept := ready.family.never_cut(spec):
        report("note", text=kept)
        notes.append(kept)
    return notes


def check_sites(spec: Spec, recipe: Recipe, family: Family) -> None:
    """Raise RecipeError where the recipe names sites that the model has not, or leaves none to cut."""
    options = recipe.compress
    check_site_names(spec, "compress.ranks", options.ranks)
    check_site_names(spec, "compress.mode", options.mode)
    if not family.sites_to_cut(spec, options):
        kinds = ", ".join(dict.fromkeys(site.kind for site in list_sites(spec)))
        raise RecipeError(f"this model has no sites of {', '.join(options.sites or ())}", f"its kinds: {kinds}")


def _teacher(run: Run, recipe: Recipe, ready: Prepared, report: Report) -> tuple[Prepared, Any, TeacherRecord]:
    """Return the teacher, its record, and the rows as it judges them.

    It is trained where it has random weights or is under the threshold.
    """
    if run.has(layout.TEACHER_RECORD):
        run.remove(layout.TEACHER_TRAINING)  # a process may have been killed between the two
        model = load_model(run, layout.TEACHER)
        return ready.judged_by(model, recipe), model, run.read_record(TeacherRecord, layout.TEACHER_RECORD)
    report("stage", name="teacher")
    start = time.monotonic()
    model, trained_already = ready.family.load(recipe, ready.dataset.labels, ready.dataset.preprocessing)
    model = model.to(ready.accelerator.device)
    ready = ready.judged_by(model, recipe)
    scores = ready.score(model, recipe, "validation", interval=trained_already)
    baseline = baseline_value(ready.task, ready.data.validation(), model.spec.outputs, scores.primary)
    if trained_already:
        check_loaded(recipe.model.source, scores, baseline)
    learns = ready.task.labelled  # without labels a teacher is taken as it is
    doubt = chance(recipe.model.source, scores, baseline) if trained_already and learns else ""
    if doubt:
        report("note", text=doubt)
    before, held_out = held_out_before(recipe.model.source), held_out_of(ready.dataset, recipe)
    if note := seen_before(recipe.model.source, before, held_out):
        report("note", text=note)
    trained = learns and (not trained_already or bool(doubt) or scores.value < recipe.train.threshold)
    if trained:
        scores = _train_teacher(run, recipe, ready, model, report)
        check_trained(scores, baseline)
    if scores.value < recipe.train.threshold:
        what = f"the teacher reaches {scores.primary} {scores.value:.4f}"
        report("note", text=f"{what}, under the threshold {recipe.train.threshold:.4f}")
    record = TeacherRecord(
        parameters=model.spec.count_parameters(),
        source=recipe.model.source,
        trained=trained,
        seconds=round(time.monotonic() - start, 1),
        validation=scores,
        test=None,
        held_out=held_out if trained else before,
    )
    save_model(run, layout.TEACHER, model)
    run.write_record(layout.TEACHER_RECORD, record)
    run.remove(layout.TEACHER_TRAINING)
    return ready, model.eval(), record


def _train_teacher(run: Run, recipe: Recipe, ready: Prepared, model: Model, report: Report) -> Scores:
    task, data, size = ready.task, ready.data, recipe.train.batch_size
    training = Training(
        schedule=Schedule.of_teacher(recipe.train, data.labelled_steps(size), model.spec.dropout),
        objective=Objective(lambda seen, batch, _: task.loss(seen.outputs, batch), teacher=False),
        epoch=lambda epoch: data.labelled_epoch(size, recipe.seed, epoch),
        validate=lambda found: ready.score(found, recipe, "validation"),
        seed=recipe.seed,
    )
    return train(model, training, ready.accelerator, RunCheckpoints(run, layout.TEACHER_TRAINING), report).scores


def _logger(run: Run, reporter: Reporter) -> Report:
    """Return a function that hands events to the reporter and appends the lasting ones to compress/log.jsonl."""
    path = run.path_of(layout.LOG)

    def report(event: str, /, **facts: Any) -> None:
        if run.read_only:
            return
        reporter.event(event, **facts)
        if event != "step" or facts["step"] % LOGGED == 0:
            line = json.dumps({"event": event, "time": round(time.time(), 1), **facts}, default=str)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "a", encoding="utf-8") as handle:
                    handle.write(line + "\n")
            except OSError as err:
                raise RunDirError(f"cannot write {path}: {err.strerror or err}", "free space; the run resumes") from err

    return report
