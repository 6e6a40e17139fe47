"""One exported folder: fold, prove, write, audit, verify and score every file, and record all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.export.bundle import versions, write_folder, write_record
from rmtkd_edge.export.fold_proof import FLOAT32_TOLERANCE, FoldProof, fold_with_proof, prove_same
from rmtkd_edge.export.half import to_half
from rmtkd_edge.export.rows import Rows
from rmtkd_edge.export.verify import OnnxProof, compare_onnx, evaluate_onnx, verify_onnx
from rmtkd_edge.families.base import OpCount, QuantiseOptions, family_of, find_family, ranks_of
from rmtkd_edge.run.directory import package_version, sha256_file
from rmtkd_edge.run.layout import PRECISIONS
from rmtkd_edge.run.records.export import (
    ExportRecord,
    FusionRecord,
    OpCounts,
    VariantRecord,
    VerificationRecord,
)
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.sessions import open_session
from rmtkd_edge.tasks.base import Task

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


def export_folder(folder: Path, model_id: str, model: nn.Module, job: Job, reporter: Reporter) -> ExportRecord:
    """Export a model, projected or folded, into an empty folder and return its record.

    Raises:
        Finding: a proof or an audit fails; what was written so far must not ship.
    """
    folded, fold_proof = fold_with_proof(model, job.rows.held_out)
    reporter.event("verified", folder=folder.name, what="fold", relative=fold_proof.float32)
    shipped = family_of(folded).standardise(folded)
    prove_same(folded, shipped, job.rows.held_out)
    spec = shipped.spec
    write_folder(folder, shipped, job.name, job.preprocessing)
    path = folder / PRECISIONS["fp32"].file
    files = family_of(spec).export(shipped, path, job.options, _metadata(shipped, model_id, job))
    emitted = audit_emitted(path, spec, job.options)
    fp32_audit = audit_optimised(path, spec, job.options, "fp32")
    onnx_proof = verify_onnx(path, shipped, job.rows.shapes, job.task, threads=job.threads)
    reporter.event("verified", folder=folder.name, what="onnx", relative=onnx_proof.relative)
    fp32 = _variant(folder, files, onnx_proof, job)
    _tell(reporter, folder, "fp32", fp32)
    variants, audits = {"fp32": fp32}, {"fp32": fp32_audit}
    for precision, make in _derived(family_of(spec).quantise, job).items():
        variants[precision], audit = _derive(folder, precision, make, shipped, fp32, job)
        audits |= {} if audit is None else {precision: audit}
        _tell(reporter, folder, precision, variants[precision])
    parameters = spec.count_parameters()
    return write_record(
        folder,
        ExportRecord(
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
            verification=_verification(fold_proof, onnx_proof),
            variants=variants,
            fusion=FusionRecord(_counts(emitted), {name: _counts(audit) for name, audit in audits.items()}),
            graph=job.options.model_dump(include={"opset", "attention", "norm"}),
            threads=job.threads,
            files={},
            versions=versions(),
        ),
    )
