"""`rmtkd-edge export`: from the checkpoints of a run to folders, one for each student and one for the baseline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.hardware import HardwareProfile, graph_for, load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.export.fold_proof import run_torch
from rmtkd_edge.export.folder import Job, export_folder
from rmtkd_edge.export.options import ExportOptions
from rmtkd_edge.export.origin import edited_card, origin_of
from rmtkd_edge.export.rows import rows_of_dataset
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.store import load_model
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.run.directory import Run, atomic_write_bytes
from rmtkd_edge.run.folders import files_of
from rmtkd_edge.run.freshness import refuse_other_rows
from rmtkd_edge.run.layout import (
    PREPROCESSING,
    RESULT,
    ROLES,
    STUDENT_PREPROCESSING,
    Role,
    read_device,
    read_recipe,
    roles_of,
)
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.reporter import Reporter, SilentReporter, reporting
from rmtkd_edge.tasks.base import Dataset, JudgedByTeacher, find_task

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

SUMS_IN_32_BITS = {"avx512-vnni", "avx-vnni", "neon"}  # x86 without VNNI adds pairs of products in 16 bits


def export_run(
    options: ExportOptions, reporter: Reporter | None = None, dataset: Dataset[Any] | None = None
) -> ExportRecord:
    """Export the compressed model of a run into export/ and the teacher into baseline/.

    Of a size family, the students on the way go into students/NAME/.

    Args:
        dataset: saves reading the data again.

    Returns:
        The record of export/.

    Raises:
        RunDirError: compress has not finished, or an export exists and `force` is not set.
        Finding: a proof or an audit fails; nothing of that folder is written then.
    """
    run, reporter = Run.open(options.run), reporter or SilentReporter()
    _check_ready(run, options.force)
    recipe, start, records = read_recipe(run), time.monotonic(), list[ExportRecord]()
    teacher = load_model(run, ROLES["baseline"].checkpoint)
    with reporting(reporter):
        job = _job(run, recipe, options, teacher, dataset)
        of_students = _with_fewer_tokens(run, recipe, options, job)
    run.mark("export", "running")
    for role in roles_of(run):
        reporter.event("stage", name=role.folder)
        card = edited_card(run, role)
        run.remove(role.folder)
        model = teacher if role.kind == "baseline" else load_model(run, role.checkpoint)
        with TemporaryDirectory(dir=run.path, prefix=f".{role.folder.partition('/')[0]}.") as temporary:
            built = Path(temporary) / role.folder
            origin = origin_of(run, recipe, role)
            own = job if role.kind == "baseline" else of_students
            records.append(export_folder(built, model_id(recipe, role), model, own, reporter, origin))
            run.install(role.folder, built)
        if card is not None:
            atomic_write_bytes(run.path_of(role.card), card)
    run.mark("export", "done", seconds=round(time.monotonic() - start, 1), threads=job.threads)
    return records[0]


def _check_ready(run: Run, force: bool) -> None:
    if run.stage("compress").get("state") != "done":
        raise RunDirError(
            f"compress has not finished in {run.path}", f"rmtkd-edge compress {run.path}/recipe.toml --out {run.path}"
        )
    if run.stage("export").get("state") == "done" and not force:  # one that was stopped continues without
        raise RunDirError(f"{run.path}/export exists already", f"rmtkd-edge export {run.path} --force replaces it")


def _job(run: Run, recipe: Recipe, options: ExportOptions, teacher: Model, dataset: Dataset[Any] | None) -> Job:
    """Return what both folders are made with; what cannot be exported is refused before anything is replaced."""
    spec = teacher.spec
    section, machine = options.applied(recipe.export), detect_machine()
    if options.threads is not None and options.threads < 1:
        raise UserError(f"threads is {options.threads}", "--threads 1 or more")
    device = read_device(run, recipe)
    section = section.model_copy(update={"graph": graph_for(section.graph, device)})
    find_family(spec.family).expected_ops(spec, section, "emitted")  # refuses what no graph can be written with
    preprocessing, task = _preprocessing(run, PREPROCESSING), find_task(recipe.task.kind)
    if dataset is None:
        dataset = task.load(recipe, _data(run, options), kept=run.path_of(PREPROCESSING))
    again = "give the data that compress used (--data), or compress again with --force"
    refuse_other_rows(run, dataset.digests, "; ".join(dataset.notes[:1]), again)
    if isinstance(task, JudgedByTeacher):
        dataset = task.with_reference(dataset, lambda batch: run_torch(teacher, batch).detach().numpy())
    return Job(
        task=task,
        name=recipe.task.name,
        metric=recipe.task.metric or task.known_metrics[0],
        max_length=dataset.max_length,
        rows=rows_of_dataset(task, dataset, recipe, spec),
        preprocessing=preprocessing,
        options=section,
        reduce_range=saturates(device, machine.instruction_sets),
        threads=options.threads or machine.usable_cores,
        teacher_parameters=spec.count_parameters(),
        dataset=dataset,
    )


def _with_fewer_tokens(run: Run, recipe: Recipe, options: ExportOptions, job: Job) -> Job:
    """Return what the folders of students are made with, where their tokenizer is a smaller one."""
    preprocessing = _preprocessing(run, STUDENT_PREPROCESSING)
    if not preprocessing:
        return job
    vocabulary = run.read_record(CompressRecord, RESULT).vocabulary
    dataset = job.task.load(recipe, _data(run, options), kept=run.path_of(STUDENT_PREPROCESSING))
    if isinstance(job.task, JudgedByTeacher) and job.dataset is not None:
        dataset = job.task.with_same_reference(dataset, job.dataset)
    return replace(
        job,
        dataset=dataset,
        preprocessing=preprocessing,
        rows=rows_of_dataset(job.task, dataset, recipe, load_model(run, ROLES["candidate"].checkpoint).spec),
        notes=(vocabulary.describe(),) if vocabulary else (),
    )


def _data(run: Run, options: ExportOptions) -> Path | None:
    """Return the data that a user gives now, or gave to compress."""
    known = run.stage("compress").get("data")
    return options.data or (Path(known) if known else None)


def _preprocessing(run: Run, folder: str) -> dict[str, bytes]:
    """Return the files of a folder of the run by name; raise RunDirError for one that the run did not write."""
    kept = [rel for rel in run.manifest["files"] if rel.startswith(f"{folder}/")]
    if odd := [name for name in files_of(run.path_of(folder)) if f"{folder}/{name}" not in kept]:
        raise RunDirError(f"{run.path_of(folder)} holds {', '.join(odd)}, which the run did not write", "remove it")
    return {rel.removeprefix(f"{folder}/"): run.read_bytes(rel) for rel in kept}


def saturates(profile: str | HardwareProfile | None, here: Sequence[str]) -> bool:
    """Return whether int8 sums saturate on a target.

    Args:
        profile: its hardware profile, or the name of one; None for this machine.
        here: this machine's instruction sets.
    """
    known = load_profile(profile) if isinstance(profile, str) else profile
    return not SUMS_IN_32_BITS & set(known.instruction_sets if known else here)


def model_id(recipe: Recipe, role: Role) -> str:
    """Return the name of a model: source, data set, the method that compressed it, and which of a family it is."""
    source = find_family(recipe.model.family).describe_source(recipe)
    method = recipe.compress.method if role.kind == "candidate" else ""
    return "-".join(part for part in (source, recipe.task.name, method, role.student) if part)
