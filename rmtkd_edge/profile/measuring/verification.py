"""Whether outputs are what they should be, on what is timed and on padded rows; which onnxruntime is too old."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from .basics import Json, RunnerError, workload_key
from .plan import arrays_of
from .sessions import feeds_of
from .store import Store


def refuse_old(plan: Json, version: str) -> None:
    """Raise RunnerError where a model's outputs are not right on an onnxruntime as old as this one."""
    for model in plan["models"]:
        oldest = model.get("onnxruntime")
        if oldest and release(version) < release(oldest):
            raise RunnerError("runtime", f"{model['label']} needs onnxruntime {oldest} or later, this is {version}")


def release(version: str) -> tuple:
    """Return the first two numbers of a version, whatever stands before them."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def verified_feeds(plan: Json, folder: Path, workload: Json, sessions: list, store: Store) -> list:
    """Return what every session reads under a workload; raise RunnerError where an output is not what it should be.

    Outputs are compared on what is timed, and on the plan's `checks`, which are not: rows with padding.
    """
    found = []
    for model, session in zip(plan["models"], sessions):  # noqa: B905
        keys = [workload_key(workload), *plan.get("checks", [])]
        feeds = [feeds_of(session, arrays_of(folder / plan["inputs"], key), model["file"]) for key in keys]
        compared = [verified(plan, folder, model, session, *pair) for pair in zip(keys, feeds)]  # noqa: B905
        store.cell(model, workload)["verification"] = worst(compared)
        found.append(feeds[0])
    return found


def verified(plan: Json, folder: Path, model: Json, session: Any, key: str, feed: Json) -> Json:
    """Return how far a session's outputs are from the plan's; raise RunnerError where that is too far."""
    names = [node.name for node in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feed)))  # noqa: B905
    reference = arrays_of(folder / plan["reference"], f"{model.get('name', model['role'])}/{key}")
    found = verify_outputs(model, outputs, reference, plan.get("tolerance", 1e-4))
    if model["precision"] != "fp32":  # plans before tolerance_int8 hold no outputs of int8 files
        reference = arrays_of(folder / plan["reference"], f"{model['label']}/{key}", needed=False)
    if reference:
        limit = plan.get("tolerance_int8", plan.get("tolerance", 1e-4))
        found.update(same_file(model, outputs, reference, limit, plan.get("prediction", "none")))
    return found


def worst(compared: list) -> Json:
    """Return the largest of several comparisons' differences, and the least agreement."""
    out = dict(compared[0])
    for other in compared[1:]:
        for key in [key for key in out if key.endswith("_diff")]:
            out[key] = max(out[key], other[key])
        if out.get("same_labels") is not None:
            out["same_labels"] = min(out["same_labels"], other["same_labels"])
    return out


def verify_outputs(
    model: Json, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray], tolerance: float
) -> Json:
    """Return the largest differences from the reference; raise RunnerError beyond `tolerance` x its largest magnitude.

    int8 models only report: their outputs differ by design (same_file has their difference between processors).
    """
    worst, relative = 0.0, 0.0
    for name, expected in reference.items():
        if not np.isfinite(expected).all():
            raise RunnerError("plan", f"{model['label']}: the reference of {name} is not finite; export the run again")
        if name not in outputs or outputs[name].shape != expected.shape or not np.isfinite(outputs[name]).all():
            raise RunnerError("output", f"{model['label']}: output {name} is absent, of another shape or not finite")
        worst = max(worst, float(np.abs(outputs[name] - expected).max()))
        relative = max(relative, float(np.abs(outputs[name] - expected).max() / max(np.abs(expected).max(), 1e-12)))
    exact = model["precision"] == "fp32"
    if exact and relative > tolerance:
        raise RunnerError(
            "output", f"{model['label']}: outputs differ by {relative:.2e} relative, allowed {tolerance:.0e}"
        )
    limit = tolerance if exact else None
    return {"max_abs_diff": worst, "max_rel_diff": relative, "tolerance": limit, "outputs": sorted(reference)}


def same_file(
    model: Json, outputs: dict[str, np.ndarray], there: dict[str, np.ndarray], tolerance: float, prediction: str
) -> Json:
    """Return how far outputs are from those of the same file on the host, and the share of rows with the same label.

    `prediction` is the task's: `argmax` or `sign` along the last axis; no labels are compared under any other.
    """
    found = verify_outputs({**model, "precision": "any"}, outputs, there, tolerance)
    pairs = [(outputs[name], there[name]) for name in there]
    same = {
        "argmax": [(a.argmax(-1) == b.argmax(-1)).mean() for a, b in pairs],
        "sign": [((a > 0) == (b > 0)).all(-1).mean() for a, b in pairs],
    }.get(prediction, [])
    out = {"same_labels": float(min(same)) if same else None}
    if model["precision"] != "fp32":
        out.update(same_file_max_abs_diff=found["max_abs_diff"], same_file_max_rel_diff=found["max_rel_diff"])
        out["same_file_tolerance"] = tolerance
    return out
