"""rmtkd.json of an exported folder: its ONNX files, and the proof that they compute what was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from rmtkd_edge.run.layout import OWN_WEIGHTS, WEIGHTS
from rmtkd_edge.run.records.base import Amount, Count, Document
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.tuning import TunedSession


@dataclass(frozen=True)
class OpCounts:
    """Number of nodes by operator, expected and found.

    A name may be several: `A or B` are counted together, of `A less B` the difference counts.
    """

    expected: dict[str, int]
    found: dict[str, int]


@dataclass(frozen=True)
class FusionRecord:
    """Operators of the graph as emitted, and by precision as onnxruntime runs it."""

    emitted: OpCounts
    optimised: dict[str, OpCounts]


@dataclass(frozen=True)
class VerificationRecord:
    """Largest relative differences of the outputs, on `rows` held-out rows.

    Attributes:
        fold_float64: folded torch model against the projected one, in float64.
        fold_float32: the same in float32.
        onnx_float32: ONNX file against the folded torch model.
        shapes: (batch, length) that were compared.
        tolerances: what each difference may be, by its name.
    """

    fold_float64: Amount
    fold_float32: Amount
    onnx_float32: Amount
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    tolerances: dict[str, float]


@dataclass(frozen=True)
class VariantRecord:
    """One ONNX file in a precision.

    Attributes:
        file: the graph, relative to the folder; `files` holds it and its files of weights.
        validation: None where nobody had labelled rows.
        relative_difference: largest of the outputs, from the torch model's; None where they are not finite.
        agreement: share of the `compared_rows` with the same prediction as the torch model's.
        quantisation: how it was made, None for a file that was not quantised.
        refused: why it must not ship (the file is removed then), else None.
    """

    file: str
    files: tuple[str, ...]
    size_bytes: Count
    sha256: str
    validation: Scores | None
    test: Scores | None
    relative_difference: Amount | None
    agreement: Amount
    compared_rows: int
    quantisation: dict[str, Any] | None = None
    refused: str | None = None

    @property
    def reported(self) -> Scores | None:
        """Return the scores that are reported: of the test split, else of validation."""
        return self.test or self.validation


@dataclass(frozen=True)
class TestedRecord:
    """What other onnxruntimes computed of a small file of the same family, graph and opset: not of this very file.

    Attributes:
        reference: the onnxruntime that they are compared with.
        differences: by precision and version, the largest difference on padded batches as a share of the largest
            output; None where the version refused the file.
    """

    reference: str
    differences: dict[str, dict[str, Amount | None]]


@dataclass(frozen=True)
class ExportRecord(Document):
    """An exported folder: the compressed model, or the original that it is compared with.

    Attributes:
        task: name of the data set; `kind` is the task's.
        max_length: longest sequence in tokens, None for a model that reads no sequences.
        variants: ONNX files by precision.
        files: sha256 of every file of the folder but this one and the model card.
        graph: its `name` (`fast` or `portable`) and `opset`.
        onnxruntime: the oldest one that the files are right on, empty where it is not known.
        tested: what other versions of it made of such files, None where none was tried.
        notes: what users of the folder have to know.
        sessions: settings of onnxruntime that `profile --tune` found, by the device.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/export@2"

    model_id: str
    family: str
    task: str
    kind: str
    metric: str
    labels: tuple[str, ...]
    max_length: int | None
    ranks: dict[str, int]
    parameters: int
    teacher_parameters: int
    reduction: float
    verification: VerificationRecord
    variants: dict[str, VariantRecord]
    fusion: FusionRecord
    graph: dict[str, Any]
    threads: int
    files: dict[str, str]
    versions: dict[str, str]
    onnxruntime: str = ""
    notes: tuple[str, ...] = ()
    sessions: dict[str, TunedSession] = field(default_factory=dict)
    tested: TestedRecord | None = None

    @property
    def weights(self) -> str:
        """Return the file of the torch weights."""
        return OWN_WEIGHTS if OWN_WEIGHTS in self.files else WEIGHTS
