"""What every part of the measuring code says: a refusal, a JSON object, the names of workloads and files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_DOCUMENT = 256 * 2**20  # bytes
PLAN_SCHEMA, RESULTS_SCHEMA = "rmtkd-edge/plan@2", "rmtkd-edge/results@2"
EMULATED_PYTHON = "RMTKD_PYTHON"  # set by the launcher of an emulated Python: the command that starts another one
HOME = Path(__file__).resolve().parent.parent  # where runner.py, limits.py and the meters are, in a bundle too
Json = dict  # a JSON object
Say = Callable[..., None]


class RunnerError(Exception):
    """A refusal; `kind` is plan, hash, provider, runtime, model, output, meter, limit, disk or probe."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_document(path: Path) -> bytes:
    """Return a plan or results; raise RunnerError for what is no regular file, too large, or cannot be read."""
    try:
        if not path.is_file():  # a device or a pipe may never end
            raise RunnerError("plan", f"{path} is missing, or is no regular file")
        if path.stat().st_size > LARGEST_DOCUMENT:
            size = f"{path.stat().st_size:,} bytes, {LARGEST_DOCUMENT:,} are read at most"
            raise RunnerError("plan", f"{path} has {size}")
        return path.read_bytes()
    except OSError as err:
        raise RunnerError("plan", f"{path} cannot be read: {err}") from err


def workload_key(workload: Json) -> str:
    """Return the name of a workload, which also prefixes its arrays: `b8s128`, or `b8` without a sequence."""
    return f"b{workload['batch']}" + ("" if workload.get("seq") is None else f"s{workload['seq']}")


def cell_key(model: Json, workload: Json) -> str:
    """Return the key of a partial result: the file's hash, the label and the workload."""
    return f"{model['sha256']}|{model['label']}|{workload_key(workload)}"


def read_text(path: str) -> str | None:
    """Return a small file of /proc or /sys, or None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return None


def sibling(name: str) -> Any:
    """Return the module next to this folder: of the package, or of a bundle."""
    package = (__package__ or "").rpartition(".")[0]
    return importlib.import_module(f"{package}.{name}" if package else name)
