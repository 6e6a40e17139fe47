"""Load an exported folder, or a run, and predict with it, by onnxruntime or by torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.export.bundle import check_file, read_model, read_record, read_spec
from rmtkd_edge.export.fold_proof import run_torch
from rmtkd_edge.families.base import Spec
from rmtkd_edge.run.directory import Run as Directory
from rmtkd_edge.run.layout import EXPORT_RECORD, MANIFEST, PRECISIONS, ROLES
from rmtkd_edge.run.records.export import ExportRecord, VariantRecord
from rmtkd_edge.sessions import CPU, open_session, run_session
from rmtkd_edge.tasks.base import Batch, Prediction, Predictor, find_task

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

READ_UNASKED = (".json", ".txt", ".model", ".jinja")  # endings of files that a tokenizer reads where they are there

Run = Callable[[Batch], np.ndarray]


@dataclass(frozen=True)
class Loaded:
    """An exported model, ready to predict.

    Attributes:
        model: the torch module, None with onnxruntime.
    """

    folder: Path
    record: ExportRecord
    spec: Spec
    predictor: Predictor
    model: Model | None

    def predict(self, items: Sequence[Any], batch_size: int = 32) -> Prediction:
        """Return outputs and predictions for items (texts, pairs, images); an empty list gives no rows."""
        return self.predictor.predict(items, batch_size)


def load(
    path: str | os.PathLike[str],
    *,
    backend: Literal["onnx", "torch"] = "onnx",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    provider: str = CPU,
    threads: int = 1,
) -> Loaded:
    """Return the model of an exported folder, or of a run's export/; the hash of every file it needs is checked.

    Raises:
        RunDirError: naming a file that is missing, altered or not listed.
        UserError: for a precision that is not there (int8 that was refused says why), or an option that torch has no
            use for.
        ProviderError: another provider would be taken.
    """
    folder = exported_folder(Path(path))
    record = read_record(folder)
    heavy = {record.weights, *(name for variant in record.variants.values() for name in variant.files)}
    for name in record.files.keys() - heavy:  # of those, the one that is loaded is checked further down
        check_file(folder, name, record.files)
    _refuse_unlisted(folder, record)
    model = None
    if backend == "torch":
        model = _model(folder, record, precision, provider, threads)
        run = _torch(model)
    elif backend == "onnx":
        run = _onnx(folder, record, precision, provider, threads)
    else:
        raise UserError(f"there is no backend {backend!r}", "backend='onnx' or backend='torch'")
    return Loaded(folder, record, read_spec(folder), find_task(record.kind).predictor(folder, record, run), model)


def exported_folder(path: Path) -> Path:
    """Return the exported folder that a path names: itself, or export/ of a run."""
    role = ROLES["candidate"]
    if (path / MANIFEST).is_file() and (path / role.record).is_file():
        run = Directory.open(path)
        run.read_bytes(role.record)  # it vouches for the other files, and the run for it
        return path / role.folder
    for folder in (path, path / role.folder):
        if (folder / EXPORT_RECORD).is_file():
            return folder
    raise RunDirError(f"{path} holds no exported model (no {EXPORT_RECORD})", f"rmtkd-edge export {path}")


def _refuse_unlisted(folder: Path, record: ExportRecord) -> None:
    listed = {*record.files, EXPORT_RECORD}
    odd = sorted(p.name for p in folder.iterdir() if p.suffix in READ_UNASKED and p.name not in listed)
    if odd:  # it would be read, and nobody has checked it
        raise RunDirError(f"{folder} holds {', '.join(odd)}, which {EXPORT_RECORD} does not list", "remove it")


def _model(folder: Path, record: ExportRecord, precision: str, provider: str, threads: int) -> Model:
    if precision != "fp32":
        raise UserError(f"the backend torch runs fp32, not {precision}", "backend='onnx'")
    if provider != CPU or threads != 1:
        hint = "for torch: load(...).model.to(device), torch.set_num_threads(n)"
        raise UserError("provider and threads are onnxruntime's", hint)
    return read_model(folder, record)


def _torch(model: Model) -> Run:
    @torch.no_grad()
    def run(batch: Batch) -> np.ndarray:
        device = next(model.parameters()).device
        return run_torch(model, {name: value.to(device) for name, value in batch.items()}).cpu().numpy()

    return run


def _onnx(folder: Path, record: ExportRecord, precision: str, provider: str, threads: int) -> Run:
    variant = _variant(folder, record, precision)
    for name in {variant.file, *variant.files}:
        check_file(folder, name, record.files)
    session = open_session(folder / variant.file, threads=threads, provider=provider)
    return lambda batch: run_session(session, batch)


def _variant(folder: Path, record: ExportRecord, precision: str) -> VariantRecord:
    variant = record.variants.get(precision)
    if variant is None:
        asked = precision in PRECISIONS and PRECISIONS[precision].on_request
        raise UserError(
            f"{folder} has no {precision} variant (it has {', '.join(record.variants)})",
            f"rmtkd-edge export RUN --force{f' --{precision}' if asked else ''}",
        )
    if variant.refused:
        raise UserError(
            f"{precision} was refused at export: {variant.refused}",
            "load precision='fp32', or raise export.max_drop and export again",
        )
    return variant
