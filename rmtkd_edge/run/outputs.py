"""compress/outputs.safetensors: what teacher and students answer on the reported rows, with the targets.

Runs on the same rows are compared by it row by row. Runs of earlier versions have none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run import layout

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

Batches = Sequence[NDArray[Any]]
LARGEST = 256 * 2**20  # bytes that are kept: outputs of dense tasks can be larger than the models
TARGETS, TEACHER, STUDENT = "targets", "teacher", "student"
NAME = re.compile(rf"({TARGETS}|{TEACHER}|{STUDENT}(?:-{layout.STUDENT})?)/(\d+)")


@dataclass(frozen=True)
class Outputs:
    """Targets and outputs in batches of the same rows; the first axis of every array is rows.

    Attributes:
        targets: what the task's metrics compare outputs with.
        teacher: float32.
        students: float32, by the name of the student; the run's own has an empty one.
    """

    targets: Batches
    teacher: Batches
    students: Mapping[str, Batches]

    @property
    def series(self) -> dict[str, Batches]:
        """Return all batches under the names that they have in the file."""
        students = {f"{STUDENT}-{name}" if name else STUDENT: found for name, found in self.students.items()}
        return {TARGETS: self.targets, TEACHER: self.teacher, **students}


def write_outputs(run: Run, outputs: Outputs) -> str:
    """Keep the outputs in a run.

    Returns:
        Why they are not kept, empty where they are.
    """
    from safetensors.numpy import save

    series = outputs.series
    size = sum(batch.nbytes for batch in chain.from_iterable(series.values()))
    if size > LARGEST:
        return f"outputs on the reported rows are not kept: they take {size:,} bytes, {LARGEST:,} are kept at most"
    if not all(batch.dtype.kind in "biuf" for batch in outputs.targets):
        return "outputs on the reported rows are not kept: their targets are no numbers"
    if all(len({batch.shape[1:] for batch in batches}) == 1 for batches in series.values()):
        series = {name: [np.concatenate(batches)] for name, batches in series.items()}
    arrays = {
        f"{name}/{i:05d}": np.ascontiguousarray(batch)
        for name, batches in series.items()
        for i, batch in enumerate(batches)
    }
    run.write_bytes(layout.OUTPUTS, save(arrays))
    return ""


def read_outputs(run: Run) -> Outputs | None:
    """Return the outputs that a run keeps, None where it keeps none.

    Raises:
        RunDirError: the file is damaged, or does not hold the same rows of all models.
    """
    if not run.has(layout.OUTPUTS):
        return None
    where, again = run.path_of(layout.OUTPUTS), "compress the run again with --force"
    series: dict[str, list[NDArray[Any]]] = {TARGETS: [], TEACHER: [], STUDENT: []}
    for name, batch in sorted(run.read_arrays(layout.OUTPUTS).items()):
        if (match := NAME.fullmatch(name)) is None or batch.ndim == 0:
            raise RunDirError(f"{where} holds {name}, which are no outputs", again)
        series.setdefault(match[1], []).append(batch)
    rows = {name: list(map(len, batches)) for name, batches in series.items()}
    for name, found in rows.items():
        if not found or found != rows[TARGETS]:
            raise RunDirError(f"{where}: {name} has {sum(found)} rows, the targets have {sum(rows[TARGETS])}", again)
    students = {n.removeprefix(STUDENT).lstrip("-"): series[n] for n in series if n.startswith(STUDENT)}
    return Outputs(series[TARGETS], series[TEACHER], students)
