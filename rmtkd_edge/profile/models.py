"""What an export holds to be measured: ONNX files with their hashes, and the spec that says what they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.families.base import Spec, spec_from_dict
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.run.folders import inside
from rmtkd_edge.run.layout import CONFIG, DEFAULT_METHOD, EXPORT_RECORD, PRECISIONS, ROLES, label, read_recipe
from rmtkd_edge.run.records.base import from_json, read_json_file
from rmtkd_edge.run.records.export import ExportRecord

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


@dataclass(frozen=True)
class ModelFile:
    """One ONNX file to be measured; `sha256` is what the export recorded, `external` its files of weights."""

    label: str
    role: str
    precision: str
    path: Path
    sha256: str
    external: tuple[tuple[Path, str], ...]
    facts: ExportRecord


@dataclass(frozen=True)
class Exported:
    """The files that are measured, notes on those that are not there and why, and the compressed model's spec."""

    models: tuple[ModelFile, ...]
    notes: tuple[str, ...]
    spec: Spec


def find_models(run: Run) -> Exported:
    """Return what a run holds to be measured.

    Raises:
        RunDirError: the candidate was not exported, or a file is not the one that rmtkd.json describes.
    """
    again = f"rmtkd-edge export {run.path}"
    folders = {role: _Folder(run.path_of(known.folder), again, run) for role, known in ROLES.items()}
    if not folders["candidate"].has(EXPORT_RECORD):
        raise RunDirError(f"{run.path} holds no exported model", again)
    return _found(folders, read_recipe(run).compress.method)


def find_exported(path: Path) -> Exported:
    """Return what a folder without a run holds: an exported folder, or one that has export/ (and baseline/) in it.

    Raises:
        RunDirError: it holds no exported model, or a file is not the one that rmtkd.json describes.
    """
    again = "export the model again"
    if (path / EXPORT_RECORD).is_file():
        return _found({"candidate": _Folder(path, again)})
    folders = {role: _Folder(path / known.folder, again) for role, known in ROLES.items()}
    if not folders["candidate"].has(EXPORT_RECORD):
        raise RunDirError(f"{path} holds no exported model: no {EXPORT_RECORD}", "export one, or give its folder")
    return _found(folders)


@dataclass(frozen=True)
class _Folder:
    """An exported folder; with a run its files are checked against the manifest. `again`: what to do about a fault."""

    path: Path
    again: str
    run: Run | None = None

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> Any:
        if self.run is not None:
            return self.run.read_json(f"{self.path.name}/{name}")
        return read_json_file(self.path / name, self.again)

    def check(self, name: str, sha256: str) -> None:
        path = inside(self.path, name)
        if not path.is_file():
            raise RunDirError(f"{path} is missing", self.again)
        if (found := sha256_file(path)) != sha256:
            raise RunDirError(
                f"{path} was altered or cut off: its sha256 is {found}, {EXPORT_RECORD} says {sha256}", self.again
            )

    def spec(self) -> Spec:
        config = self.read(CONFIG)
        try:
            return spec_from_dict(config["rmtkd"]["spec"])
        except (KeyError, TypeError, ValueError, RecipeError) as err:
            raise RunDirError(f"{self.path / CONFIG} describes no model that is known here: {err}", self.again) from err


def _found(folders: dict[str, _Folder], method: str = DEFAULT_METHOD) -> Exported:
    models: list[ModelFile] = []
    notes: list[str] = []
    for role, folder in folders.items():
        if not folder.has(EXPORT_RECORD):
            notes.append(f"{folder.path.name}/ is not there: nothing to compare with; {folder.again} writes it")
            continue
        facts = from_json(ExportRecord, folder.read(EXPORT_RECORD), folder.path / EXPORT_RECORD)
        for precision in PRECISIONS:
            name = label(role, precision, method)
            why = _why_not(folder, precision, facts)
            if why is None and folder.has(PRECISIONS[precision].file):
                models.append(_model_file(folder, role, precision, name, facts))
            elif why:
                notes.append(f"{name} is not measured: {why}")
    return Exported(tuple(models), tuple(notes), folders["candidate"].spec())


def _why_not(folder: _Folder, precision: str, facts: ExportRecord) -> str | None:
    """Return why a file is not measured, None where it is or was not asked for; raise RunDirError for a lost one."""
    variant, known = facts.variants.get(precision), PRECISIONS[precision]
    if variant is not None and variant.refused:
        return f"refused at export, {variant.refused}"
    if folder.has(known.file):
        return None
    if precision == "fp32":
        raise RunDirError(f"{folder.path / known.file} is missing", folder.again)
    return None if variant is None and known.on_request else f"{folder.path.name}/{known.file} is not there"


def _model_file(folder: _Folder, role: str, precision: str, name: str, facts: ExportRecord) -> ModelFile:
    variant, rel = facts.variants.get(precision), PRECISIONS[precision].file
    recorded = facts.files.get(rel) if variant is None else variant.sha256
    if recorded is None:
        raise RunDirError(f"nothing records the sha256 of {folder.path / rel}", folder.again)
    folder.check(rel, recorded)
    return ModelFile(name, role, precision, folder.path / rel, recorded, tuple(_weights(folder, rel, facts)), facts)


def _weights(folder: _Folder, rel: str, facts: ExportRecord) -> Iterator[tuple[Path, str]]:
    for location in external_files(folder.path / rel):
        part = (Path(rel).parent / location).as_posix()
        if part not in facts.files:
            raise RunDirError(f"nothing records the sha256 of {folder.path / part}", folder.again)
        folder.check(part, facts.files[part])
        yield folder.path / part, facts.files[part]


def external_files(path: Path) -> list[str]:
    """Return the files next to an ONNX file that hold its weights, sorted; empty where they are embedded."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's DecodeError has no stable home
        raise RunDirError(f"{path} is no ONNX file: {err}", "export the run again") from err
    return sorted({e.value for t in graph.initializer for e in t.external_data if e.key == "location"})
