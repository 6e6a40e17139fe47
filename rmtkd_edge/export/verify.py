"""Exported files against folded torch, on held-out rows, in several shapes; and their accuracy through onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from rmtkd_edge.errors import DataError, Finding
from rmtkd_edge.export.fold_proof import (
    Batch,
    SiteDifference,
    difference_table,
    first_site,
    relative_difference,
    run_torch,
    site_of,
)
from rmtkd_edge.sessions import open_session, run_session, session_options
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.ops import Model

FLOAT32_TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxProof:
    """How far an ONNX file is from folded torch.

    `relative`: largest difference of a logit over the largest logit, all batches. `agreement`: share of rows with the
    same argmax. `shapes`: the (batch, sequence or pixels a side) sizes that were run.
    """

    relative: float
    agreement: float
    rows: int
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Score:
    """Share of rows classified right, and how many rows there were."""

    accuracy: float
    rows: int


def variations(batches: Iterable[Batch], pad_id: int, max_length: int) -> list[dict[str, Tensor]]:
    """Return held-out batches in the shapes where exports break.

    Beside the batches themselves: one row alone without padding; the shortest row beside the longest one, padded to
    `max_length`; a batch of sequences of `max_length` without any padding (rows repeated); three tokens. int64 (B, T).
    """
    found = [{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")} for batch in batches]
    if not found:
        raise DataError("there are no held-out rows to verify on", "set export.verify_rows to 1 or more")
    rows = [_row(batch, i) for batch in found for i in range(len(batch["input_ids"]))]
    rows.sort(key=lambda row: row["input_ids"].shape[1])
    short, long = rows[0], rows[-1]
    full = {name: tensor.repeat(1, -(-max_length // tensor.shape[1]))[:, :max_length] for name, tensor in long.items()}
    stub = {name: tensor[:, :3] for name, tensor in long.items()}
    padded = [_pad(row, pad_id, max_length) for row in (short, long, short)]
    return [*found, long, stub, _stack(padded), _stack([full, full])]


@torch.no_grad()
def compare_onnx(session: ort.InferenceSession, folded: Model, batches: Sequence[Batch]) -> OnnxProof:
    """Return how far a session's logits are from torch's."""
    difference, scale, same, rows = 0.0, 0.0, 0, 0
    for batch in batches:
        reference, found = run_torch(folded, batch), torch.from_numpy(run_session(session, batch))
        step = float((reference - found).abs().max())
        difference = max(difference, step) if step == step else float("inf")
        scale = max(scale, float(reference.abs().max()))
        same += int((reference.argmax(1) == found.argmax(1)).sum())
        rows += len(reference)
    first = [batch[folded.inputs[0]].shape for batch in batches]
    shapes = tuple(dict.fromkeys((shape[0], shape[-1]) for shape in first))
    return OnnxProof(difference / max(scale, torch.finfo(torch.float32).tiny), same / rows, rows, shapes)


def verify_onnx(
    path: Path, folded: Encoder, batches: Sequence[Batch], *, threads: int, tolerance: float = FLOAT32_TOLERANCE
) -> OnnxProof:
    """Prove that an fp32 file computes what folded torch does.

    Raises Finding whose table names, in the order of computation, the difference at every site of the batch that is
    furthest off, when `tolerance` (relative to the largest logit) is exceeded.
    """
    session = open_session(path, threads=threads)
    proof = compare_onnx(session, folded, batches)
    if proof.relative <= tolerance:
        return proof
    worst = max(batches, key=lambda batch: compare_onnx(session, folded, [batch]).relative)
    shape = tuple(worst["input_ids"].shape)
    sites = bisect(path, folded, worst, threads=threads)
    raise Finding(
        f"{path.name} differs from folded torch by {proof.relative:.1e} of the largest logit "
        f"(allowed {tolerance:.0e}), worst at (batch, sequence) {shape}; "
        f"the first site that differs is {first_site(sites, tolerance)}",
        "try --set export.attention=plain, and report the table",
        difference_table(sites, tolerance),
    )


@torch.no_grad()
def bisect(path: Path, folded: Encoder, batch: Batch, *, threads: int) -> list[SiteDifference]:
    """Return the difference between torch and the file at every place that both know, in the order of computation.

    Works on the file itself: the value behind each named weight becomes an output. Padded tokens are left out.
    """
    taps: dict[str, Tensor] = {}
    taps["logits"] = run_torch(folded, batch, taps)
    model = onnx.load(str(path))
    places = {tap: value for tap, value in _values(model, len(folded.spec.layers)).items() if tap in taps}
    present = {output.name for output in model.graph.output}
    for value in dict.fromkeys(places.values()):
        if value not in present:
            model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
    feed = {item.name: np.asarray(batch[item.name]) for item in session.get_inputs()}
    outputs = dict(zip(places, session.run(list(places.values()), feed), strict=True))
    mask, found = batch["attention_mask"].bool(), []
    for tap in (tap for tap in taps if tap in places):
        a, b = taps[tap], torch.from_numpy(outputs[tap])
        if a.ndim == 3:
            a, valid = a[:, : b.shape[1]], mask[:, : b.shape[1]]  # the last layer may compute the first token alone
            a, b = a[valid], b[valid]
        found.append(SiteDifference(tap, site_of(tap), relative_difference(b, a)))
    return found


@torch.no_grad()
def evaluate_onnx(session: ort.InferenceSession, batches: Iterable[Mapping[str, Any]]) -> Score:
    """Return the accuracy of a session over labelled batches."""
    right = rows = 0
    for batch in batches:
        labels = np.asarray(batch["labels"])
        right += int((run_session(session, batch).argmax(1) == labels).sum())
        rows += len(labels)
    if not rows:
        raise DataError("the validation split has no rows", "check task.validation_split")
    return Score(right / rows, rows)


def _values(model: onnx.ModelProto, layers: int) -> dict[str, str]:
    """Return the graph's value for each tap: what the last node that reads a named weight computes."""
    made = {output: node for node in model.graph.node for output in node.output}
    behind = {name: node for node in model.graph.node for name in node.input}
    places: dict[str, str] = {"logits": model.graph.output[0].name}

    def put(tap: str, bias: str) -> None:
        if bias in behind:
            places[tap] = behind[bias].output[0]

    put("stream.0", "embeddings.norm.bias")
    put("stream.0", "embeddings.project.bias")
    put("head", "head.bias")
    for i in range(layers):
        for tap, bias in (("q", "query"), ("k", "key"), ("mid", "norm1"), ("ffn", "up")):
            put(f"layer.{i}.{tap}", f"layers.{i}.{bias}.bias")
        put(f"stream.{i + 1}", f"layers.{i}.norm2.bias")
        add = behind.get(f"layers.{i}.out.bias")
        product = next((made[name] for name in add.input if name in made), None) if add is not None else None
        if product is not None and product.op_type == "MatMul":
            places[f"layer.{i}.value"] = product.input[0]
    return places


def _row(batch: Batch, i: int) -> dict[str, Tensor]:
    size = int(batch["attention_mask"][i].sum())
    return {name: tensor[i : i + 1, :size] for name, tensor in batch.items()}


def _pad(row: Batch, pad_id: int, length: int) -> dict[str, Tensor]:
    fill = {"input_ids": pad_id}
    return {
        name: torch.nn.functional.pad(t, (0, length - t.shape[1]), value=fill.get(name, 0)) for name, t in row.items()
    }


def _stack(rows: Sequence[Batch]) -> dict[str, Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
