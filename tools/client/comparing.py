"""The same rows by our own session and by a client: how far the outputs differ, and how many labels are the same."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.environments import Missing
from client.running import Answer, Client, Inputs, Job
from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.export.load import Loaded, load
from rmtkd_edge.profile.measuring.basics import RunnerError
from rmtkd_edge.profile.plan import TOLERANCE_INT8
from rmtkd_edge.tasks.base import Batch, find_task

TOLERANCE = 1e-4  # of the largest output, fp32
FAILURES = (RuntimeError, subprocess.TimeoutExpired, RunnerError, RmtkdError)


@dataclass(frozen=True)
class Compared:
    """A client against our session.

    Attributes:
        difference: the largest of the outputs, as a share of the largest output.
        agreement: share of rows with the same prediction.
        cut: rows left out, since the client cuts texts that are too long otherwise.
        skipped: why it was not run; empty where it was.
        wrong: what is not as it should be; empty where all is.
    """

    client: str
    precision: str
    rows: int = 0
    difference: float | None = None
    agreement: float | None = None
    cut: int = 0
    versions: dict[str, str] | None = None
    skipped: str = ""
    wrong: str = ""


def compare(
    client: Client, place: Path, folder: Path, precision: str, items: Sequence[Any], work: Path, batch: int = 8
) -> Compared:
    """Run a client and our session on the same batches of an exported folder.

    Args:
        place: folder of the environments.
        items: texts, pairs of texts, or paths of pictures.
        work: an empty folder to write to.
    """
    loaded = load(folder, precision=precision)  # type: ignore[arg-type]
    whole, cut = by_length(loaded, items)
    if not client.cuts:
        items, left_out = whole, len(cut)
    else:
        items, left_out = [*whole, *cut], 0
    batches = [items[start : start + batch] for start in range(0, len(items), batch)]
    try:
        places = client.found(place)
        answer = client.run(_job(loaded, precision, batches, work), places)
    except Missing as err:
        return Compared(client.name, precision, skipped=str(err))
    except FAILURES as err:
        return Compared(client.name, precision, len(items), wrong=f"it fails: {err}")
    ours = [loaded.predict(part).outputs for part in batches]
    found = Compared(client.name, precision, len(items), cut=left_out, versions=answer.versions)
    return _judged(found, loaded, ours, answer)


def by_length(loaded: Loaded, items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the items that fit the model, and those that are cut off."""
    limit = loaded.record.max_length
    if limit is None:
        return list(items), []
    parts: tuple[list[Any], list[Any]] = [], []
    for item in items:
        length = inputs_of(loaded, [item], limit + 1)["input_ids"].shape[1]
        parts[length > limit].append(item)
    return parts


def inputs_of(loaded: Loaded, items: Sequence[Any], max_length: int | None) -> Inputs:
    """Return what our own preprocessing makes of one batch."""
    seen: list[Batch] = []

    def run(batch: Batch) -> np.ndarray:
        seen.append(batch)
        return np.zeros((len(items), max(1, len(loaded.record.labels))), np.float32)

    record = replace(loaded.record, max_length=max_length)
    find_task(record.kind).predictor(loaded.folder, record, run).predict(items, len(items))
    return {name: np.asarray(value) for name, value in seen[0].items()}


def _job(loaded: Loaded, precision: str, batches: Sequence[Sequence[Any]], work: Path) -> Job:
    record, variant = loaded.record, loaded.record.variants[precision]
    return Job(
        folder=loaded.folder.resolve(),
        precision=precision,
        file=variant.file,
        external=tuple(name for name in variant.files if name != variant.file),
        graph=str(record.graph.get("name", "fast")),
        modality=find_task(record.kind).modality,
        items=batches,
        inputs=[inputs_of(loaded, part, record.max_length) for part in batches],
        pad=getattr(loaded.spec, "pad_id", 0),
        work=work,
    )


def _judged(found: Compared, loaded: Loaded, ours: Sequence[np.ndarray], answer: Answer) -> Compared:
    """Return the comparison with its figures and what is wrong with them."""
    mine, theirs = np.concatenate(ours), np.concatenate(answer.outputs)
    if mine.shape != theirs.shape:
        return replace(found, wrong=f"outputs {theirs.shape}, ours {mine.shape}")
    difference = float(np.abs(mine - theirs).max() / np.abs(mine).max())
    agreement = find_task(loaded.record.kind).agreement(mine, theirs)
    found, wrong = replace(found, difference=difference, agreement=agreement), []
    if answer.labels is not None and answer.labels != list(loaded.record.labels):
        wrong.append(f"labels {answer.labels}, ours {list(loaded.record.labels)}")
    limit = TOLERANCE if found.precision == "fp32" else TOLERANCE_INT8
    if not difference <= limit:
        wrong.append(f"outputs differ by more than {limit:g}")
    if found.precision == "fp32" and agreement < 1:
        wrong.append("labels differ")
    return replace(found, wrong="; ".join(wrong))
