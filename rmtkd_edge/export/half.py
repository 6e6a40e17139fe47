"""Half precision: an fp32 file with its weights and arithmetic in fp16, its inputs and outputs in fp32 as before.

For GPUs, and half the size; processors without fp16 arithmetic cast back and forth. What fp16 cannot hold (above 65504)
is cut to its range by the converter, so accuracy is measured on the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from rmtkd_edge.export.facts import refusal, variant_facts
from rmtkd_edge.export.fold_proof import Batch
from rmtkd_edge.sessions import open_session
from rmtkd_edge.export.verify import Score, compare_onnx, evaluate_onnx
from rmtkd_edge.families.ops import Model


def to_half(source: Path, target: Path) -> None:
    """Write the fp16 file of an fp32 one."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))


def half_variant(
    source: Path, target: Path, folded: Model, fp32: Score, *, batches: Sequence[Batch], validation: Sequence[Batch],
    threads: int, allowed: float,
) -> dict[str, Any]:  # fmt: skip
    """Write the fp16 file, keep it where it loses no more than `allowed` accuracy, and return its facts."""
    to_half(source, target)
    session = open_session(target, threads=threads)
    score, proof = evaluate_onnx(session, validation), compare_onnx(session, folded, batches)
    facts = variant_facts(target, [target], score, proof) | {"refused": refusal(fp32, score, allowed)}
    if facts["refused"]:
        target.unlink()
    return facts
