"""Exported files against folded torch, on held-out rows, in several shapes; and their metrics through onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from rmtkd_edge.errors import Finding
from rmtkd_edge.export.fold_proof import (
    FLOAT32_TOLERANCE,
    Batch,
    SiteDifference,
    difference_table,
    first_site,
    run_torch,
    site_differences,
)
from rmtkd_edge.families.base import family_of
from rmtkd_edge.families.onnx_program import OUTPUT
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.sessions import open_session, run_session, session_options
from rmtkd_edge.tasks.base import Task
from rmtkd_edge.tasks.scoring import score

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model


@dataclass(frozen=True)
class OnnxProof:
    """How far an ONNX file is from folded torch.

    Attributes:
        relative: largest difference of an output over the largest output, all batches.
        agreement: share of rows with the same prediction.
        shapes: the sizes of the first input that were run, its first and last axis: (batch, tokens or pixels a side).
    """

    relative: float
    agreement: float
    rows: int
    shapes: tuple[tuple[int, int], ...]


@torch.no_grad()
def compare_onnx(session: ort.InferenceSession, folded: Model, batches: Sequence[Batch], task: Task) -> OnnxProof:
    """Return how far a session's outputs are from torch's."""
    difference, scale, same, rows = 0.0, 0.0, 0.0, 0
    for batch in batches:
        reference, found = run_torch(folded, batch).numpy(), run_session(session, batch)
        step = float(np.abs(reference - found).max())
        difference = max(difference, math.inf if math.isnan(step) else step)
        scale = max(scale, float(np.abs(reference).max()))
        same += task.agreement(reference, found, dict(batch)) * len(reference)
        rows += len(reference)
    first = [batch[session.get_inputs()[0].name].shape for batch in batches]
    shapes = tuple(dict.fromkeys((shape[0], shape[-1]) for shape in first))
    return OnnxProof(difference / max(scale, float(np.finfo(np.float32).tiny)), same / rows, rows, shapes)


def verify_onnx(
    path: Path,
    folded: Model,
    batches: Sequence[Batch],
    task: Task,
    *,
    threads: int,
    tolerance: float = FLOAT32_TOLERANCE,
) -> OnnxProof:
    """Prove that an fp32 file computes what folded torch does.

    Raises:
        Finding: `tolerance` (relative to the largest output) is exceeded; its table names, in the order of computation,
            the difference at every site of the batch that is furthest off.
    """
    session = open_session(path, threads=threads)
    proof = compare_onnx(session, folded, batches, task)
    if proof.relative <= tolerance:
        return proof
    each = [compare_onnx(session, folded, [batch], task) for batch in batches]
    worst = max(range(len(batches)), key=lambda i: each[i].relative)
    sites = bisect(path, folded, batches[worst], threads=threads)
    tip = family_of(folded).parity_hint
    raise Finding(
        f"{path.name} differs from folded torch by {proof.relative:.1e} of the largest output (allowed "
        f"{tolerance:.0e}), worst at (batch, size) {each[worst].shapes[0]}; "
        f"the first site that differs is {first_site(sites, tolerance)}",
        "report the table with the run's recipe.toml" + (f"; {tip} may help" if tip else ""),
        difference_table(sites, tolerance),
    )


@torch.no_grad()
def bisect(path: Path, folded: Model, batch: Batch, *, threads: int) -> list[SiteDifference]:
    """Return the difference between torch and the file at every place that both know, in the order of computation.

    Works on the file itself: the value that the family knows for each tap becomes an output.
    """
    taps: dict[str, Tensor] = {}
    taps[OUTPUT] = run_torch(folded, batch, taps)
    model = onnx.load(str(path))
    values = {OUTPUT: model.graph.output[0].name, **family_of(folded).graph_values(model, folded.spec)}
    places = {tap: value for tap, value in values.items() if tap in taps}
    present = {output.name for output in model.graph.output}
    for value in dict.fromkeys(places.values()):
        if value not in present:
            model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
    feed = {item.name: np.asarray(batch[item.name]) for item in session.get_inputs()}
    outputs = session.run(list(places.values()), feed)
    found = {tap: torch.from_numpy(value) for tap, value in zip(places, outputs, strict=True)}
    return site_differences(folded, taps, found, batch)


def evaluate_onnx(
    session: ort.InferenceSession, batches: Iterable[Batch], task: Task, metric: str, split: str
) -> Scores:
    """Return the metrics of a session over labelled batches, with an interval of the primary one."""
    outputs, targets = [], []
    for batch in batches:
        outputs.append(run_session(session, batch))
        targets.append(task.targets(dict(batch)))
    return score(task, metric, split, outputs, targets, interval=True)
