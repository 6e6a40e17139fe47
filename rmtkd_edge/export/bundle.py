"""The exported folder: what transformers, Optimum and transformers.js read, and our own keys under `rmtkd`."""

from __future__ import annotations

import importlib
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.families.base import Spec, family_of, find_family
from rmtkd_edge.families.store import assemble, read_weights, spec_of
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.run.directory import atomic_write_bytes, package_version
from rmtkd_edge.run.layout import CARD, CONFIG, EXPORT_RECORD, OWN_WEIGHTS, WEIGHTS
from rmtkd_edge.run.records.base import from_json, read_json_file, to_json
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.model import ModelRecord

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

AGAIN = "export again: rmtkd-edge export RUN --force"
PACKAGES = ("torch", "onnx", "onnxruntime", "transformers")


def write_folder(
    folder: Path,
    shipped: Model,
    task: str,
    preprocessing: Mapping[str, bytes],
    max_length: int | None = None,
    problem_type: str | None = None,
) -> None:
    """Write config.json, the weights and the files that turn raw items into inputs.

    Weights of a model that transformers cannot rebuild are in a file that it does not look for: it fails without its
    own file, but for tensors of other names it would put random ones without an error.

    Args:
        task: name of the data set.
        preprocessing: content of the tokenizer's or the image processor's files by name.
        max_length: tokens that rows were cut to in training, None where nothing was cut.
        problem_type: what transformers calls the kind of labels, None where it has no name for it.
    """
    spec = shipped.spec
    family = family_of(spec)
    config = family.config(spec, task)
    if problem_type is not None:
        config["problem_type"] = problem_type
    ours = {"schema": ModelRecord.SCHEMA, "spec": spec.to_dict(), "task": task, "version": package_version()}
    config["rmtkd"] = {**ours, **config.get("rmtkd", {})}
    _write_json(folder / CONFIG, config)
    atomic_write_bytes(
        folder / (WEIGHTS if config["rmtkd"].get("transformers") else OWN_WEIGHTS),
        save({name: tensor.detach().cpu().contiguous() for name, tensor in family.tensors(shipped).items()}),
    )
    for name, content in family.fit_preprocessing(spec, preprocessing, max_length).items():
        atomic_write_bytes(folder / name, content)


def write_record(folder: Path, record: ExportRecord) -> ExportRecord:
    """Write rmtkd.json, the last file, with the hashes of all others but the card; a folder without it is not whole."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (EXPORT_RECORD, CARD))
    whole = replace(record, files={path.relative_to(folder).as_posix(): sha256_file(path) for path in paths})
    data = to_json(whole)
    from_json(ExportRecord, data, folder / EXPORT_RECORD)  # what cannot be read again is its writer's fault
    _write_json(folder / EXPORT_RECORD, data)
    return whole


def read_record(folder: Path) -> ExportRecord:
    """Return rmtkd.json of an exported folder; raise RunDirError, with the export as the way out, otherwise."""
    data = read_json_file(folder / EXPORT_RECORD, AGAIN)
    versions = data.get("versions") if isinstance(data, dict) else None
    wrote = str(versions.get("rmtkd-edge", "")) if isinstance(versions, dict) else ""
    try:
        return from_json(ExportRecord, data, folder / EXPORT_RECORD, wrote)
    except RunDirError as err:
        raise RunDirError(err.message, AGAIN) from err


def read_spec(folder: Path) -> Spec:
    """Return the shape that an exported folder's config.json describes; raise RunDirError otherwise."""
    config = read_json_file(folder / CONFIG, AGAIN)
    ours = config.get("rmtkd") if isinstance(config, dict) else None
    if not isinstance(ours, dict):
        raise RunDirError(f"{folder / CONFIG} has no key `rmtkd`", AGAIN)
    if (schema := ours.get("schema")) != ModelRecord.SCHEMA:
        raise RunDirError(f"{folder / CONFIG}: schema is {schema!r}, this version reads {ModelRecord.SCHEMA!r}", AGAIN)
    return spec_of(ours.get("spec", {}), folder / CONFIG, AGAIN)


def read_model(folder: Path, record: ExportRecord) -> Model:
    """Return the folded model of an exported folder, in eval mode; raise RunDirError naming a file at fault."""
    spec = read_spec(folder)
    path = folder / record.weights
    tensors = read_weights(path, record.files.get(record.weights), AGAIN)
    return assemble(spec, find_family(spec.family).from_tensors(spec, tensors), path, AGAIN)


def check_file(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """Return the path of a file of an exported folder; raise RunDirError where it is not the one that was written."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise RunDirError(f"{name!r} points outside of {folder}", AGAIN)
    if name not in files:
        raise RunDirError(f"{path} is not part of this export ({EXPORT_RECORD} does not list it)", AGAIN)
    if not path.is_file():
        raise RunDirError(f"{path} is missing", AGAIN)
    if (found := sha256_file(path)) != files[name]:
        wanted = f"{EXPORT_RECORD} says {files[name]}"
        raise RunDirError(f"{path} was altered or cut off: its sha256 is {found}, {wanted}", AGAIN)
    return path


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    own = {"rmtkd-edge": package_version(), "python": platform.python_version()}
    return own | {name: importlib.import_module(name).__version__ for name in PACKAGES}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    atomic_write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
