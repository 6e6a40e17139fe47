"""What rmtkd.json records of an exported folder, the same for text and images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import Finding
from rmtkd_edge.export.fold_proof import FoldProof
from rmtkd_edge.export.verify import FLOAT32_TOLERANCE, OnnxProof, Score
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.directory import Run, sha256_file

ROLES = {"export": "compress/best", "baseline": "compress/teacher"}
ROUNDING = 1e-9  # 0.90 - 0.89 is more than 0.01 in floating point


def export_both(run: Run, threads: int, export_one: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Call `export_one(folder, checkpoint)` for both folders of a run and return what it gave for export/.

    A folder whose proof fails (Finding) is removed: its files must not lie about.
    """
    run.mark("export", "running")
    start, results = time.monotonic(), {}
    for folder, checkpoint in ROLES.items():
        run.remove(folder)
        try:
            results[folder] = export_one(folder, checkpoint)
        except Finding:
            run.remove(folder)
            raise
    run.mark("export", "done", seconds=round(time.monotonic() - start, 1), threads=threads)
    return results["export"]


def model_id(recipe: Recipe, folder: str) -> str:
    """Return the name of a model: task, source, and whether it is compressed."""
    source = recipe.model.source
    for prefix in ("package:", "torchvision:"):
        source = source.removeprefix(prefix)
    source = source.rstrip("/").rsplit("/", 1)[-1].removesuffix(".safetensors")
    if source == "scratch":
        shape, net = recipe.model.config, recipe.model.resnet
        source = f"{shape.model_type}-{shape.layers}x{shape.width}"
        source = f"resnet{net.depth}-{net.width}" if recipe.task.kind == "image" else source
    return f"{source}-{recipe.task.name}" + ("-rmt-kd" if folder == "export" else "")


def refusal(fp32: Score, int8: Score, allowed: float) -> str | None:
    """Return why an int8 file must not ship, with the figures, or None."""
    drop = fp32.accuracy - int8.accuracy
    if drop <= allowed + ROUNDING:
        return None
    return (
        f"accuracy falls from {fp32.accuracy:.4f} to {int8.accuracy:.4f} on {int8.rows} validation rows, "
        f"{drop:.4f}, export.max_accuracy_drop allows {allowed:.4f}"
    )


def variant_facts(path: Path, files: Sequence[Path], score: Score, proof: OnnxProof) -> dict[str, Any]:
    """Return what rmtkd.json says of one file: size, hash, accuracy, distance from torch."""
    rels = [f"{file.parent.name}/{file.name}" for file in files]
    return {
        "file": f"{path.parent.name}/{path.name}",
        "files": rels,
        "size_bytes": sum(file.stat().st_size for file in files),
        "sha256": sha256_file(path),
        "accuracy": score.accuracy,
        "n": score.rows,
        "relative_difference": proof.relative,
        "argmax_agreement": proof.agreement,
        "compared_rows": proof.rows,
    }


def verification_facts(fold: FoldProof, onnx: OnnxProof) -> dict[str, Any]:
    """Return what rmtkd.json says of the proofs, with the tolerances that they were held to."""
    return {
        "fold_float64": fold.float64,
        "fold_float32": fold.float32,
        "onnx_float32": onnx.relative,
        "rows": onnx.rows,
        "shapes": [list(shape) for shape in onnx.shapes],
        "tolerances": {
            "fold_float64": fold.float64_tolerance,
            "fold_float32": fold.float32_tolerance,
            "onnx_float32": FLOAT32_TOLERANCE,
        },
    }
