"""Reading a plan: its keys, the hashes of its files, its arrays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from .basics import PLAN_SCHEMA, Json, RunnerError

KEYS = "provider threads spinning models inputs reference workloads min_runs min_duration_s warmup rounds seed"
KEYS += " idle_s meters"


def load_plan(path: Path) -> Json:
    """Return a plan whose keys are complete and whose files have the hashes that it names; raise RunnerError."""
    try:
        text = path.read_bytes()
        plan = json.loads(text)
    except (OSError, ValueError) as err:
        raise RunnerError("plan", f"{path} cannot be read: {err}") from err
    if not isinstance(plan, dict) or plan.get("schema") != PLAN_SCHEMA:
        found = plan.get("schema") if isinstance(plan, dict) else "none"
        raise RunnerError("plan", f"{path} has schema {found}, this runner reads {PLAN_SCHEMA}")
    missing = [key for key in KEYS.split() if key not in plan]
    if missing:
        raise RunnerError("plan", f"{path} lacks {', '.join(missing)}")
    if not plan["models"] or not plan["workloads"] or min(plan["threads"], plan["rounds"], plan["min_runs"]) < 1:
        raise RunnerError("plan", f"{path} needs at least one model, workload, thread, round and run")
    for model in plan["models"]:
        for part in [model, *model.get("external", [])]:
            check_hash(path.parent, part["file"], part["sha256"])
    for file, sha256 in plan.get("files", {}).items():
        check_hash(path.parent, file, sha256)
    return {**plan, "sha256": hashlib.sha256(text).hexdigest()}


def check_hash(folder: Path, file: str, expected: str) -> None:
    """Raise RunnerError, naming the file and both hashes, unless its sha256 is the expected one."""
    path = folder / file
    if not path.is_file():
        raise RunnerError("hash", f"{file} is missing")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise RunnerError("hash", f"{file} has sha256 {digest.hexdigest()}, the plan names {expected}")


def arrays_of(path: Path, prefix: str, needed: bool = True) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz whose names begin with `prefix/`, the prefix taken off."""
    with np.load(path, allow_pickle=False) as stored:
        found = {k[len(prefix) + 1 :]: stored[k] for k in stored.files if k.startswith(prefix + "/")}
    if needed and not found:
        raise RunnerError("plan", f"{path.name} has nothing for {prefix}")
    return found
