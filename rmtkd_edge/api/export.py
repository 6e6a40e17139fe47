"""`export`: from a compressed model to the ONNX files that ship, of a run or of a model in memory."""

from __future__ import annotations

import copy
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from rmtkd_edge.api.batches import Loader, numbered, task_of
from rmtkd_edge.config.hardware import graph_for, load_profile
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.export.options import ExportOptions
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.folders import replace_folder, sweep_builds
from rmtkd_edge.run.layout import CARD, EXPORT_RECORD, PRECISIONS, roles_of
from rmtkd_edge.run.lock import open_to_write
from rmtkd_edge.run.records.export import ExportRecord, VariantRecord
from rmtkd_edge.run.reporter import Reporter, SilentReporter
from rmtkd_edge.tasks.base import Dataset, Task

if TYPE_CHECKING:
    from rmtkd_edge.export.load import Loaded
    from rmtkd_edge.families.base import Spec
    from rmtkd_edge.families.model import Model

__all__ = ["ExportOptions", "ExportResult", "export", "export_run", "exported_family"]

Precision = Literal["fp32", "fp16", "int8"]


def export_run(options: ExportOptions, reporter: Reporter | None = None) -> ExportRecord:
    """Export the compressed model of a run into export/ and the teacher into baseline/; return export/'s record.

    Of a size family, the students on the way go into students/NAME/; `exported_family` returns all records.

    Raises:
        RunDirError: compress has not finished, or an export is there.
        Finding: a proof or an audit fails.
    """
    from rmtkd_edge.export.stage import export_run as stage

    with open_to_write(options.run):
        return stage(options, reporter)


def exported_family(path: Path) -> dict[str, ExportRecord]:
    """Return the records of a run's exported students by their folders in the run, the run's own first.

    Raises:
        RunDirError: there is no run, or a student was not exported.
    """
    run = Run.open(path)
    students = (role for role in roles_of(run) if role.kind == "candidate")
    return {role.folder: run.read_record(ExportRecord, role.record) for role in students}


@dataclass(frozen=True)
class ExportResult:
    """An exported folder and what is known of its files; usable wherever a path is."""

    folder: Path
    record: ExportRecord

    def __fspath__(self) -> str:
        return str(self.folder)

    def load(self, **options: Any) -> Loaded:
        """Return the model of the folder, ready to predict; options as those of `rmtkd_edge.load`."""
        from rmtkd_edge.export.load import load

        return load(self.folder, **options)

    def __repr__(self) -> str:
        kept = (v for v in self.record.variants.values() if not v.refused)
        sizes = ", ".join(f"{v.file} {v.size_bytes / 1e6:.2f} MB" for v in kept)
        fewer = f", {self.record.reduction:.1%} fewer parameters" if self.record.reduction > 0 else ""
        return f"ExportResult({self.folder}: {sizes}{fewer})"

    def _repr_html_(self) -> str:
        head = ("file", "MB", self.record.metric, "largest difference from torch", "same predictions")
        rows = [head, *(_row(variant) for variant in self.record.variants.values())]
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>{html.escape(str(self.folder))}</p><table>{body}</table>"


def export(
    model: Model,
    out: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    precision: Precision | Sequence[Precision] = ("fp32", "int8"),
    loader: Loader | None = None,
    teacher: Model | None = None,
    task: str | None = None,
    on: str | None = None,
    options: Export | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> ExportResult:
    """Fold a model, projected or folded already, write it as ONNX, and prove that every file computes the same.

    Args:
        out: the folder to write; it appears when all of it is there and proved.
        tokenizer: of a text model, so that the folder can be loaded and predict; images need none.
        precision: of the files; fp32 is always written.
        loader: batches as dictionaries of tensors. The first 64 rows prove the files and calibrate int8; the rest,
            where it has labels, is scored, and int8 that loses more than `options.max_drop` is refused. Without a
            loader random inputs prove the files, and nothing is calibrated or scored.
        teacher: the original, which the reduction is measured against.
        task: kind of the task; the default of the model's family when left out.
        on: hardware profile of the target, which int8 and the graph depend on; this machine when left out.
        options: opset, graph and tolerance: the recipe's section `export`.
        force: replace an exported folder that is there.

    Raises:
        RunDirError: `out` is there already, or cannot be written.
        DataError: batches lack what the model reads; a model of images has no rows to calibrate int8 on.
        Finding: a proof or an audit fails; nothing is written then.
    """
    from rmtkd_edge.export.folder import Job, export_folder
    from rmtkd_edge.export.rows import rows_of_loader
    from rmtkd_edge.export.stage import saturates
    from rmtkd_edge.families.base import family_of
    from rmtkd_edge.machine import detect_machine

    out = Path(out)
    ours = _check_target(out, force)
    precisions = (precision,) if isinstance(precision, str) else precision
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise UserError(f"there is no precision {unknown[0]!r}", f"precision: {', '.join(PRECISIONS)}")
    mine, kind, machine = copy.deepcopy(model).cpu(), task_of(model, task), detect_machine()
    spec = family_of(mine).fold(mine).spec
    options, device = options or Export(), None if on is None else load_profile(on)
    wanted = {"int8": "int8" in precisions, "fp16": "fp16" in precisions, "graph": graph_for(options.graph, device)}
    job = Job(
        task=kind,
        name=out.name,
        metric=kind.known_metrics[0],
        max_length=spec.max_length,
        rows=rows_of_loader(kind, None if loader is None else numbered(loader, mine)(), spec),
        preprocessing=_preprocessing(kind, tokenizer, spec),
        options=options.model_copy(update=wanted),
        reduce_range=saturates(device, machine.instruction_sets),
        threads=machine.usable_cores,
        teacher_parameters=(teacher.spec.with_projections({}) if teacher is not None else spec).count_parameters(),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep_builds(out, (out.name,))
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        record = export_folder(Path(folder) / out.name, out.name, mine, job, reporter or SilentReporter())
        replace_folder(Path(folder) / out.name, out, ours, EXPORT_RECORD)
    return ExportResult(out, record)


def _check_target(out: Path, force: bool) -> tuple[str, ...]:
    """Return the files of the export that a folder holds, all that may be removed from it.

    Raises:
        RunDirError: the folder must not be written over: only an export is ever replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return ()
    if not (out / EXPORT_RECORD).is_file():
        raise RunDirError(f"{out} is there and is no exported folder", "choose another folder")
    if not force:
        raise RunDirError(f"{out} holds an export already", "force=True replaces it")
    from rmtkd_edge.export.bundle import read_record
    from rmtkd_edge.export.card import card
    from rmtkd_edge.export.origin import Origin

    record, there = read_record(out), out / CARD
    ours = there.is_file() and there.read_bytes() == card(record, Origin()).encode()  # else somebody's own words
    return (*record.files, EXPORT_RECORD, *([CARD] if ours else []))


def _preprocessing(task: Task[Any], tokenizer: Any, spec: Spec) -> dict[str, bytes]:
    """Return the files that turn raw items into inputs, none where nothing says how."""
    found = task.preprocessing_of(spec, tokenizer)
    if found is None:
        return {}
    with TemporaryDirectory(prefix="rmtkd-export-") as name:
        folder = Path(name)
        task.save_preprocessing(Dataset("", tuple(spec.labels), None, None, None, found), folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _row(variant: VariantRecord) -> tuple[str, ...]:
    if variant.refused:
        return variant.file, "refused", variant.refused, "", ""
    scores, difference = variant.reported, variant.relative_difference
    return (
        variant.file,
        f"{variant.size_bytes / 1e6:.2f}",
        f"{scores.value:.4f}" if scores else "not measured",
        "" if difference is None else f"{difference:.1e}",
        f"{variant.agreement:.1%}",
    )
