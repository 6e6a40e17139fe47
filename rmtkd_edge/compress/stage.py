"""`rmtkd-edge compress`: from a recipe to a compressed checkpoint in a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmtkd_edge.compress.context import Context, Report
from rmtkd_edge.compress.depth import check_depth
from rmtkd_edge.compress.final import final_scores
from rmtkd_edge.compress.latency import Measure
from rmtkd_edge.compress.loop import run_loop
from rmtkd_edge.compress.prepared import Prepared, prepare
from rmtkd_edge.compress.ranks.edge import check_site_names
from rmtkd_edge.compress.result import members_of, missed_targets, result_of
from rmtkd_edge.compress.resume import forget_damaged
from rmtkd_edge.compress.store import RunStore
from rmtkd_edge.compress.teacher import ready_teacher
from rmtkd_edge.compress.vocabulary import start
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.families.base import Family, Spec, list_sites
from rmtkd_edge.families.store import save_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.freshness import refuse_other_rows
from rmtkd_edge.run.outputs import Outputs, write_outputs
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.data import describe
from rmtkd_edge.run.reporter import Reporter

LOGGED = 50  # steps between two losses in the log


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
    ready, model, teacher = ready_teacher(run, recipe, ready, report)
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
