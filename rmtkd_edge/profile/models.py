"""What an export holds to be measured: ONNX files with their hashes, and the spec that says what they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.families.base import Spec, spec_from_dict
from rmtkd_edge.run.records.base import from_json, read_json_file
from rmtkd_edge.run.records.export import ExportRecord

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

ROLES = {"candidate": ("export", "rmt-kd"), "baseline": ("baseline", "original")}
FILES = {"fp32": "onnx/model.onnx", "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
FACTS, CONFIG = "rmtkd.json", "config.json"
ON_REQUEST = ("fp16",)  # no note where it was not asked for


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
    folders = {role: _Folder(run.path_of(rel), f"rmtkd-edge export {run.path}", run, rel) for role, (rel, _) in ROLES.items()}
    if not folders["candidate"].has(FACTS):
        raise RunDirError(f"{run.path} holds no exported model", f"rmtkd-edge export {run.path}")
    return _found(folders)


def find_exported(path: Path) -> Exported:
    """Return what a folder without a run holds: an exported folder, or one that has export/ (and baseline/) in it.

    Raises:
        RunDirError: it holds no exported model, or a file is not the one that rmtkd.json describes.
    """
    again = "export the model again"
    if (path / FACTS).is_file():
        return _found({"candidate": _Folder(path, again)})
    folders = {role: _Folder(path / rel, again) for role, (rel, _) in ROLES.items()}
    if not folders["candidate"].has(FACTS):
        raise RunDirError(f"{path} holds no exported model (there is no {FACTS})", "export one, or give its folder")
    return _found(folders)


@dataclass(frozen=True)
class _Folder:
    """An exported folder; with a run its files are checked against the manifest. `again`: what to do about a fault."""

    path: Path
    again: str
    run: Run | None = None
    rel: str = ""

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> Any:
        if self.run is not None:
            return self.run.read_json(f"{self.rel}/{name}")
        return read_json_file(self.path / name, self.again)

    def spec(self) -> Spec:
        config = self.read(CONFIG)
        try:
            return spec_from_dict(config["rmtkd"]["spec"])
        except (KeyError, TypeError, ValueError, RecipeError) as err:
            raise RunDirError(f"{self.path / CONFIG} describes no model that is known here: {err}", self.again) from err


def _found(folders: dict[str, _Folder]) -> Exported:
    models: list[ModelFile] = []
    notes: list[str] = []
    for role, folder in folders.items():
        if not folder.has(FACTS):
            notes.append(f"{folder.path.name}/ is not there: nothing to compare with; {folder.again} writes it")
            continue
        facts = from_json(ExportRecord, folder.read(FACTS), folder.path / FACTS)
        for item in _files_of(folder, role, facts):
            (notes if isinstance(item, str) else models).append(item)  # type: ignore[arg-type]
    return Exported(tuple(models), tuple(notes), folders["candidate"].spec())


def _files_of(folder: _Folder, role: str, facts: ExportRecord) -> Iterator[ModelFile | str]:
    """Yield every file of a folder that is measured, and a sentence for every one that is not."""
    for precision, rel in FILES.items():
        variant, label = facts.variants.get(precision), f"{ROLES[role][1]} {precision}"
        if variant is not None and variant.refused:
            yield f"{label} is not measured: refused at export, {variant.refused}"
        elif folder.has(rel):
            recorded = facts.files.get(rel) if variant is None else variant.sha256
            if recorded is None:
                raise RunDirError(f"nothing records the sha256 of {folder.path / rel}", folder.again)
            external = tuple(_weights(folder, rel, facts))
            yield ModelFile(label, role, precision, folder.path / rel, recorded, external, facts)
        elif precision == "fp32":
            raise RunDirError(f"{folder.path / rel} is missing", folder.again)
        elif variant is not None or precision not in ON_REQUEST:
            yield f"{label} is not measured: {folder.path.name}/{rel} is not there"


def _weights(folder: _Folder, rel: str, facts: ExportRecord) -> Iterator[tuple[Path, str]]:
    for location in external_files(folder.path / rel):
        part = (Path(rel).parent / location).as_posix()
        if part not in facts.files:
            raise RunDirError(f"nothing records the sha256 of {folder.path / part}", folder.again)
        yield folder.path / part, facts.files[part]


def external_files(path: Path) -> list[str]:
    """Return the files next to an ONNX file that hold its weights, sorted; empty where they are embedded."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's DecodeError has no stable home
        raise RunDirError(f"{path} is no ONNX file: {err}", "export the run again") from err
    return sorted({e.value for t in graph.initializer for e in t.external_data if e.key == "location"})
