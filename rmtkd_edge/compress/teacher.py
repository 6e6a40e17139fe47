"""The teacher of a compression: loaded, scored, and trained where that is needed."""

from __future__ import annotations

import time
from typing import Any

from rmtkd_edge.compress.context import Report
from rmtkd_edge.compress.held_out import held_out_before, held_out_of, seen_before
from rmtkd_edge.compress.learnt import baseline_value, chance, check_loaded, check_trained
from rmtkd_edge.compress.prepared import Prepared
from rmtkd_edge.compress.store import RunCheckpoints
from rmtkd_edge.compress.training.schedule import Schedule
from rmtkd_edge.compress.training.trainer import Training, train
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.store import load_model, save_model
from rmtkd_edge.methods.base import Objective
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.teacher import TeacherRecord


def ready_teacher(run: Run, recipe: Recipe, ready: Prepared, report: Report) -> tuple[Prepared, Any, TeacherRecord]:
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
