"""Reading a plan: its keys, the hashes of its files, its arrays."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from .basics import Json, RunnerError, read_document
from .plan_schema import check_plan

LARGEST = 2**36  # bytes of a file of a bundle
LARGEST_ARRAYS = 2**33  # bytes of all arrays of an .npz, which may be packed into a thousandth


def load_plan(path: Path) -> Json:
    """Return a plan whose keys are complete and whose files have the hashes that it names; raise RunnerError."""
    text = read_document(path)
    try:
        plan = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise RunnerError("plan", f"{path} cannot be read: {err}") from err
    plan = check_plan(plan, str(path))
    for model in plan["models"]:
        for part in [model, *model.get("external", [])]:
            check_hash(path.parent, part["file"], part["sha256"])
    for file, sha256 in plan.get("files", {}).items():
        check_hash(path.parent, file, sha256)
    for file in (plan["inputs"], plan["reference"]):
        check_arrays(file_of(path.parent, file))
    return {**plan, "sha256": hashlib.sha256(text).hexdigest()}


def check_hash(folder: Path, file: str, expected: str) -> None:
    """Raise RunnerError, naming the file and both hashes, unless its sha256 is the expected one."""
    path = file_of(folder, file)
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise RunnerError("hash", f"{file} has sha256 {digest.hexdigest()}, the plan names {expected}")


def file_of(folder: Path, file: str) -> Path:
    """Return a file of a bundle; raise RunnerError where there is none, by a link one outside, or an endless one."""
    try:
        path = (folder / file).resolve()
        if folder.resolve() not in path.parents:
            raise RunnerError("plan", f"{file} leads out of {folder}")
        if not path.is_file():  # a device or a pipe may never end
            raise RunnerError("hash", f"{file} is missing")
        size = path.stat().st_size
    except (OSError, RuntimeError) as err:  # a name that is too long, a loop of links
        raise RunnerError("plan", f"{file} cannot be read: {err}") from err
    if size > LARGEST:
        raise RunnerError("plan", f"{file} has {size:,} bytes, {LARGEST:,} are read at most")
    return path


def check_arrays(path: Path) -> None:
    """Raise RunnerError for a file that holds no arrays, or more than memory should be asked for."""
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > LARGEST_ARRAYS:
            raise RunnerError("plan", f"{path.name} holds {size:,} bytes, {LARGEST_ARRAYS:,} are read at most")
    except (OSError, zipfile.BadZipFile) as err:
        raise RunnerError("plan", f"{path.name} cannot be read: {err}") from err


def arrays_of(path: Path, prefix: str, needed: bool = True) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz whose names begin with `prefix/`, the prefix taken off."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {k[len(prefix) + 1 :]: stored[k] for k in stored.files if k.startswith(prefix + "/")}
    except (OSError, ValueError, MemoryError, zipfile.BadZipFile) as err:
        raise RunnerError("plan", f"{path.name} cannot be read: {err}") from err
    if needed and not found:
        raise RunnerError("plan", f"{path.name} has nothing for {prefix}")
    return found
