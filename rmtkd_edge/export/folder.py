"""One exported folder: fold, prove, write, audit, verify and score every file, and record all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import NotFiniteError
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.export.bundle import versions, write_folder, write_record
from rmtkd_edge.export.card import card
from rmtkd_edge.export.fold_proof import FLOAT32_TOLERANCE, FoldProof, fold_with_proof, prove_same
from rmtkd_edge.export.half import to_half
from rmtkd_edge.export.origin import Origin
from rmtkd_edge.export.portable import make_portable
from rmtkd_edge.export.rows import Rows
from rmtkd_edge.export.runtimes import known_outcomes
from rmtkd_edge.export.verify import OnnxProof, compare_onnx, evaluate_onnx, verify_onnx
from rmtkd_edge.families.base import Family, QuantiseOptions, Spec, family_of, ranks_of
from rmtkd_edge.families.onnx_program import oldest_runtime
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.run.directory import atomic_write_bytes, package_version
from rmtkd_edge.run.layout import CARD, PRECISIONS
from rmtkd_edge.run.records.export import (
    ExportRecord,
    FusionRecord,
    VariantRecord,
    VerificationRecord,
)
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.sessions import open_session
from rmtkd_edge.tasks.base import Dataset, Task

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

NOWHERE = Origin()  # of a model that was given in memory
ROUNDING = 1e-9  # 0.90 - 0.89 is more than 0.01 in floating point


@dataclass(frozen=True)
class Job:
    """What a folder is made with.

    Attributes:
        name: of the data set.
        metric: the primary one.
        max_length: longest sequence in tokens, None for a model that reads no sequences.
        preprocessing: content of the files that turn raw items into inputs, by name.
        reduce_range: keep int8 weights to 7 bits.
        dataset: has raw rows, on which the folder's preprocessing is compared with training's; None: there are none.
        notes: what users of the folder have to know.
    """

    task: Task[Any]
    name: str
    metric: str
    max_length: int | None
    rows: Rows
    preprocessing: Mapping[str, bytes]
    options: Export
    reduce_range: bool
    threads: int
    teacher_parameters: int
    dataset: Dataset[Any] | None = None
    notes: tuple[str, ...] = ()


def export_folder(
    folder: Path, model_id: str, model: Model, job: Job, reporter: Reporter, origin: Origin = NOWHERE
) -> ExportRecord:
    """Export a model, projected or folded, into an empty folder and return its record.

    Raises:
        Finding: a proof or an audit fails; what was written so far must not ship.
    """
    folded, fold_proof = fold_with_proof(model, job.rows.held_out)
    reporter.event("verified", folder=folder.name, what="fold", relative=fold_proof.float32)
    family = family_of(folded)
    shipped = family.standardise(folded)
    prove_same(folded, shipped, job.rows.held_out)
    spec, problem_type = shipped.spec, None if job.task.hub is None else job.task.hub.problem_type
    write_folder(folder, shipped, job.name, job.preprocessing, job.max_length, problem_type)
    notes = job.notes
    if job.dataset is not None and job.dataset.samples:
        notes += job.task.check_preprocessing(job.dataset, folder, spec)
    for note in notes:
        reporter.event("note", text=note)
    path = folder / PRECISIONS["fp32"].file
    files = family.export(shipped, path, job.options, _metadata(spec, model_id, job))
    _settle(path, job)
    emitted = audit_emitted(path, spec, job.options)
    audits = {"fp32": audit_optimised(path, spec, job.options, "fp32")}
    proof = verify_onnx(path, shipped, job.rows.shapes, job.task, threads=job.threads)
    reporter.event("verified", folder=folder.name, what="onnx", relative=proof.relative)
    variants = {"fp32": _variant(files, proof, job)}
    _tell(reporter, folder, "fp32", variants["fp32"])
    for precision, make in _makers(family, job).items():
        target = folder / PRECISIONS[precision].file
        quantisation = make(path, target)
        _settle(target, job)
        if precision == "int8":
            audits[precision] = audit_optimised(target, spec, job.options, "int8")
        variants[precision] = _judged(target, quantisation, shipped, variants["fp32"], job)
        _tell(reporter, folder, precision, variants[precision])
    parameters = spec.count_parameters()
    record = ExportRecord(
        model_id=model_id,
        family=spec.family,
        task=job.name,
        kind=job.task.name,
        metric=job.metric,
        labels=tuple(spec.labels),
        max_length=job.max_length,
        ranks=ranks_of(spec),
        parameters=parameters,
        teacher_parameters=job.teacher_parameters,
        reduction=1 - parameters / job.teacher_parameters,
        verification=_verification(fold_proof, proof),
        variants=variants,
        fusion=FusionRecord(emitted, audits),
        graph={"name": job.options.graph, "opset": job.options.opset},
        threads=job.threads,
        files={},
        versions=versions(),
        onnxruntime=oldest_runtime(job.options.opset, job.options.graph),
        notes=notes,
        tested=known_outcomes(spec.family, job.options, (name for name, made in variants.items() if not made.refused)),
    )
    record = write_record(folder, record)
    atomic_write_bytes(folder / CARD, card(record, origin).encode())
    return record


def _settle(path: Path, job: Job) -> None:
    if job.options.graph == "portable":
        make_portable(path)


Maker = Callable[[Path, Path], dict[str, Any] | None]  # source, target -> how it was quantised


def _makers(family: Family, job: Job) -> dict[str, Maker]:
    """Return, by precision, what makes the wanted files out of the fp32 one."""
    options = QuantiseOptions(job.reduce_range, job.threads, job.options.int8_scales)
    makers: dict[str, Maker] = {
        "fp16": to_half,
        "int8": lambda source, target: family.quantise(source, target, job.rows.calibration, options),
    }
    wanted = {"fp16": job.options.fp16, "int8": job.options.int8}
    return {precision: make for precision, make in makers.items() if wanted[precision]}


def _judged(
    target: Path, quantisation: dict[str, Any] | None, shipped: Model, fp32: VariantRecord, job: Job
) -> VariantRecord:
    """Return what is recorded of a file made from the fp32 one; it is removed where it loses more than is allowed."""
    proof = compare_onnx(open_session(target, threads=job.threads), shipped, job.rows.shapes, job.task)
    try:
        variant = _variant([target], proof, job)
    except NotFiniteError:  # of rows that the proof did not have
        variant = _unscored([target], replace(proof, relative=math.inf))
    variant = replace(variant, quantisation=quantisation)
    refused = refusal(fp32, variant, job.options.max_drop)
    if refused:
        target.unlink()
    return replace(variant, refused=refused)


def _variant(files: Sequence[Path], proof: OnnxProof, job: Job) -> VariantRecord:
    """Return what is recorded of a file, its scores on validation and on test among it."""
    session = open_session(files[0], threads=job.threads)
    splits = {"validation": job.rows.validation, "test": job.rows.test}
    scores = {
        split: evaluate_onnx(session, batches, job.task, job.metric, split)
        for split, batches in splits.items()
        if batches
    }
    return replace(_unscored(files, proof), validation=scores.get("validation"), test=scores.get("test"))


def _unscored(files: Sequence[Path], proof: OnnxProof) -> VariantRecord:
    path, folder = files[0], files[0].parent.parent
    return VariantRecord(
        file=path.relative_to(folder).as_posix(),
        files=tuple(file.relative_to(folder).as_posix() for file in files),
        size_bytes=sum(file.stat().st_size for file in files),
        sha256=sha256_file(path),
        validation=None,
        test=None,
        relative_difference=proof.relative if math.isfinite(proof.relative) else None,
        agreement=proof.agreement,
        compared_rows=proof.rows,
    )


def refusal(fp32: VariantRecord, other: VariantRecord, allowed: float) -> str | None:
    """Return why a file must not ship, with the figures on validation, or None."""
    if other.relative_difference is None:
        return "its outputs are not finite"
    if fp32.validation is None or other.validation is None:
        return None
    before, after = fp32.validation, other.validation
    drop = before.value - after.value
    if drop <= allowed + ROUNDING:
        return None
    return (
        f"{after.primary} falls from {before.value:.4f} to {after.value:.4f} on {after.rows} validation rows, "
        f"{drop:.4f}, export.max_drop allows {allowed:.4f}"
    )


def _verification(fold: FoldProof, proof: OnnxProof) -> VerificationRecord:
    return VerificationRecord(
        fold_float64=fold.float64,
        fold_float32=fold.float32,
        onnx_float32=proof.relative,
        rows=proof.rows,
        shapes=proof.shapes,
        tolerances={
            "fold_float64": fold.float64_tolerance,
            "fold_float32": fold.float32_tolerance,
            "onnx_float32": FLOAT32_TOLERANCE,
        },
    )


def _metadata(spec: Spec, model_id: str, job: Job) -> dict[str, str]:
    return {
        "rmtkd_version": package_version(),
        "rmtkd_model_id": model_id,
        "rmtkd_task": job.name,
        "rmtkd_ranks": json.dumps(ranks_of(spec)),
        "rmtkd_labels": json.dumps(list(spec.labels)),
        "rmtkd_onnxruntime": oldest_runtime(job.options.opset, job.options.graph),
    }


def _tell(reporter: Reporter, folder: Path, precision: str, variant: VariantRecord) -> None:
    scores = variant.validation
    reporter.event(
        "variant",
        folder=folder.name,
        precision=precision,
        metric=scores.primary if scores else None,
        value=scores.value if scores else None,
        size_bytes=variant.size_bytes,
        refused=variant.refused,
    )
