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


@dataclass(frozen=True)
class Reference:
    """The batches of an exported file, and what our own session makes of them.

    Attributes:
        items: by batch: texts, pairs of texts, or paths of pictures.
        inputs: what the model is fed.
        cut: how many of the batches, the last ones, hold the texts that are cut off.
    """

    loaded: Loaded
    precision: str
    items: Sequence[Sequence[Any]]
    inputs: Sequence[Inputs]
    outputs: Sequence[np.ndarray]
    cut: int

    @classmethod
    def of(cls, folder: Path, precision: str, items: Sequence[Any], batch: int = 8) -> Reference:
        """Return the reference of items, texts that are cut off apart from the others."""
        loaded = load(folder, precision=precision)  # type: ignore[arg-type]
        limit = loaded.record.max_length
        parts: tuple[list[Any], list[Any]] = [], []
        if limit is None:
            parts[0].extend(items)
        else:
            for item, inputs in zip(items, _encoded(loaded, items, 1, limit + 1), strict=True):
                parts[inputs["input_ids"].shape[1] > limit].append(item)
        batches = [[part[start : start + batch] for start in range(0, len(part), batch)] for part in parts]
        found = [inputs for part in parts for inputs in _encoded(loaded, part, batch, limit)]
        outputs = [loaded.predict(items).outputs for items in (*batches[0], *batches[1])]
        return cls(loaded, precision, [*batches[0], *batches[1]], found, outputs, len(batches[1]))

    def job(self, work: Path, batches: int) -> Job:
        """Return the first batches as a job of a client."""
        record, variant = self.loaded.record, self.loaded.record.variants[self.precision]
        return Job(
            folder=self.loaded.folder.resolve(),
            precision=self.precision,
            file=variant.file,
            external=tuple(name for name in variant.files if name != variant.file),
            modality=find_task(record.kind).modality,
            items=self.items[:batches],
            inputs=self.inputs[:batches],
            pad=getattr(self.loaded.spec, "pad_id", 0),
            work=work,
        )


def _encoded(loaded: Loaded, items: Sequence[Any], batch: int, max_length: int | None) -> list[Inputs]:
    """Return what our own preprocessing makes of items, batch by batch."""
    seen: list[Inputs] = []

    def run(inputs: Batch) -> np.ndarray:
        seen.append({name: np.asarray(value) for name, value in inputs.items()})
        return np.zeros((len(next(iter(inputs.values()))), max(1, len(loaded.record.labels))), np.float32)

    record = replace(loaded.record, max_length=max_length)
    find_task(record.kind).predictor(loaded.folder, record, run).predict(items, batch)
    return seen


def compare(client: Client, place: Path, reference: Reference, work: Path) -> Compared:
    """Run a client on the batches of a reference.

    Args:
        place: folder of the environments.
        work: an empty folder to write to.
    """
    batches = len(reference.items) - (0 if client.cuts else reference.cut)
    rows = sum(map(len, reference.items[:batches]))
    found = Compared(client.name, reference.precision, rows, cut=sum(map(len, reference.items)) - rows)
    try:
        places = client.found(place)
        answer = client.run(reference.job(work, batches), places)
    except Missing as err:
        return replace(found, skipped=str(err))
    except FAILURES as err:
        return replace(found, wrong=f"it fails: {err}")
    ours = np.concatenate(reference.outputs[:batches])
    return _judged(replace(found, versions=answer.versions), reference.loaded, ours, answer)


def _judged(found: Compared, loaded: Loaded, mine: np.ndarray, answer: Answer) -> Compared:
    """Return the comparison with its figures and what is wrong with them."""
    theirs = np.concatenate(answer.outputs)
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
