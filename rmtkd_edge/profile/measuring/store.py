"""The results file: whatever was measured is in it, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import onnxruntime

from .basics import RESULTS_SCHEMA, Json, RunnerError, cell_key, read_document
from .plan_schema import SESSION_DEFAULTS


def write_whole(path: Path, document: Json) -> None:
    """Replace a file by a JSON document: readers see the old one or the new one, never a part; raise RunnerError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as err:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunnerError(
            "disk", f"{path} cannot be written: {err.strerror or err}; what it held is kept, free space and continue"
        ) from err


def digest_of(document: Json) -> str:
    """Return the sha256 of a results document without its own digest: tells a damaged or edited file (not a forger)."""
    kept = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def previous(path: Path) -> Json:
    """Return what an earlier run left at `path`; raise RunnerError for a file that no runner wrote."""
    if not path.exists():
        return {}
    text = read_document(path)
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or (found and found.get("schema") != RESULTS_SCHEMA):
        was = (
            f" ({found['schema']}, this runner writes {RESULTS_SCHEMA})"
            if isinstance(found, dict) and found.get("schema")
            else ""
        )
        raise RunnerError("plan", f"{path} exists and holds no results{was}: move it away or name another file")
    return found


class Store:
    """The results file: whatever was measured is in it, written whole or not at all."""

    def __init__(self, path: Path, plan: Json, version: str = onnxruntime.__version__) -> None:
        names = ("provider", "threads", "spinning", "min_runs", "min_duration_s", "rounds", "warmup", "seed", "meters")
        changed = {name: plan[name] for name, usual in SESSION_DEFAULTS.items() if plan.get(name, usual) != usual}
        settings = [
            version,
            *(plan[name] for name in names),
            "turns",  # blocks without them cannot be gone on with
            *filter(None, [plan.get("limits"), plan.get("tf32") is False, changed]),
            *(model["session"] for model in plan["models"] if "session" in model),
        ]
        mark = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        self.path, self.resumed = path, False
        self.doc: Json = {
            "schema": RESULTS_SCHEMA,
            "complete": False,
            "profile": plan.get("profile"),
            "plan_sha256": plan["sha256"],
            "settings": mark,
            "cells": {},
            "probes": {},
            "idle": {},
            "turns": {},
        }
        found = previous(path)
        if found.get("settings") == mark and not found.get("complete") and found.get("cells"):
            self.doc, self.resumed = {**self.doc, **found, "plan_sha256": plan["sha256"], "error": None}, True

    def cell(self, model: Json, workload: Json) -> Json:
        """Return what is kept of a model under a workload."""
        return self.doc["cells"].setdefault(cell_key(model, workload), {"blocks": []})

    def write(self) -> None:
        """Replace the file by the present state."""
        write_whole(self.path, self.doc)


def has_rounds(document: Json) -> bool:
    """Return whether unfinished results hold any measured round."""
    return any(cell.get("blocks") for cell in (document.get("cells") or {}).values())
