"""What an export holds to be measured: ONNX files with their hashes, and the spec that says what they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.families.base import Spec, spec_from_dict
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.run.folders import inside
from rmtkd_edge.run.layout import (
    CONFIG,
    DEFAULT_METHOD,
    EXPORT_RECORD,
    PRECISIONS,
    ROLES,
    Role,
    exported_roles,
    label,
    model_of,
    read_recipe,
    roles_of,
)
from rmtkd_edge.run.records.base import from_json, read_json_file
from rmtkd_edge.run.records.export import ExportRecord

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


@dataclass(frozen=True)
class ModelFile:
    """One ONNX file to be measured.

    Attributes:
        role: `candidate` or `baseline`.
        sha256: what the export recorded.
        external: its files of weights.
    """

    label: str
    role: str
    precision: str
    path: Path
    sha256: str
    external: tuple[tuple[Path, str], ...]
    facts: ExportRecord

    @property
    def name(self) -> str:
        """Return the name of its model, which all precisions share."""
        return model_of(self.label)


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
    folders = [_Folder(run.path_of(role.folder), role, again, run) for role in roles_of(run)]
    if not folders[0].has(EXPORT_RECORD):
        raise RunDirError(f"{run.path} holds no exported model", again)
    return _found(folders, read_recipe(run).compress.method)


def find_exported(path: Path) -> Exported:
    """Return what a folder without a run holds: an exported folder, or one with export/ (and others of a run) in it.

    Raises:
        RunDirError: it holds no exported model, or a file is not the one that rmtkd.json describes.
    """
    again = "export the model again"
    if (path / EXPORT_RECORD).is_file():
        return _found([_Folder(path, ROLES["candidate"], again)])
    folders = [_Folder(path / role.folder, role, again) for role in exported_roles(path)]
    if not folders[0].has(EXPORT_RECORD):
        raise RunDirError(f"{path} holds no exported model: no {EXPORT_RECORD}", "export one, or give its folder")
    return _found(folders)


@dataclass(frozen=True)
class _Folder:
    """An exported folder; with a run its files are checked against the manifest. `again`: what to do about a fault."""

    path: Path
    role: Role
    again: str
    run: Run | None = None

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> Any:
        if self.run is not None:
            return self.run.read_json(f"{self.role.folder}/{name}")
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


def _found(folders: Sequence[_Folder], method: str = DEFAULT_METHOD) -> Exported:
    models: list[ModelFile] = []
    notes: list[str] = []
    for folder in folders:
        role = folder.role
        if not folder.has(EXPORT_RECORD):
            notes.append(f"{role.folder}/ is not there: nothing to compare with; {folder.again} writes it")
            continue
        facts = from_json(ExportRecord, folder.read(EXPORT_RECORD), folder.path / EXPORT_RECORD)
        for precision in PRECISIONS:
            called = label(role.kind, precision, method, role.student)
            why = _why_not(folder, precision, facts)
            if why is None and folder.has(PRECISIONS[precision].file):
                models.append(_model_file(folder, precision, called, facts))
            elif why:
                notes.append(f"{called} is not measured: {why}")
    return Exported(tuple(models), tuple(notes), folders[0].spec())


def _why_not(folder: _Folder, precision: str, facts: ExportRecord) -> str | None:
    """Return why a file is not measured, None where it is or was not asked for; raise RunDirError for a lost one."""
    variant, known = facts.variants.get(precision), PRECISIONS[precision]
    if variant is not None and variant.refused:
        return f"refused at export, {variant.refused}"
    if folder.has(known.file):
        return None
    if precision == "fp32":
        raise RunDirError(f"{folder.path / known.file} is missing", folder.again)
    return None if variant is None and known.on_request else f"{folder.role.folder}/{known.file} is not there"


def _model_file(folder: _Folder, precision: str, called: str, facts: ExportRecord) -> ModelFile:
    variant, rel = facts.variants.get(precision), PRECISIONS[precision].file
    recorded = facts.files.get(rel) if variant is None else variant.sha256
    if recorded is None:
        raise RunDirError(f"nothing records the sha256 of {folder.path / rel}", folder.again)
    folder.check(rel, recorded)
    return ModelFile(
        label=called,
        role=folder.role.kind,
        precision=precision,
        path=folder.path / rel,
        sha256=recorded,
        external=tuple(_weights(folder, rel, facts)),
        facts=facts,
    )


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
