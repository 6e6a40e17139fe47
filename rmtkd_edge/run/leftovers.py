"""What a killed process leaves in a run directory: recognised by its name, and swept before the next stage begins."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.folders import remove_files
from rmtkd_edge.run.layout import LOCK, LOG, MANIFEST, OWNED, PROFILES, RECIPE, ROLES, STUDENTS
from rmtkd_edge.run.records.manifest import REMOVING, read_manifest

# names that tempfile made: of files that were not whole yet, and of folders that were being filled
FILE = re.compile(r"\..+\.(json|jsonl|toml|safetensors|md|html|svg)\.[a-z0-9_]{8}")
FOLDER = re.compile(rf"\.({'|'.join([PROFILES, STUDENTS, *(role.folder for role in ROLES.values())])})\.[a-z0-9_]{{8}}")
UNFINISHED = ".partial.tmp"  # of a measurement


def sweep(path: Path) -> None:
    """Remove what killed processes left in a run directory; nobody may write there now.

    These are temporary files and folders, and files that a process had taken out of the manifest and not yet removed.
    """
    if (path / MANIFEST).is_file():
        known = read_manifest(path / MANIFEST)
        remove_files(path, [name for name in known.get(REMOVING, ()) if name not in known["files"]])
    walks = (os.walk(path / name) for name in OWNED)
    inner = (Path(folder) / name for walk in walks for folder, _, files in walk for name in files)
    for file in [*inner, *path.iterdir()]:
        if FILE.fullmatch(file.name) or file.name.endswith(UNFINISHED):
            with contextlib.suppress(OSError):  # a folder that cannot be written is named by the stage itself
                file.unlink()
    for found in path.iterdir():
        if FOLDER.fullmatch(found.name) and found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)


def only_leftovers(path: Path, recipe_text: str) -> bool:
    """Return whether a folder holds nothing but what was left of making a run of this recipe in it."""
    for found in path.iterdir():
        temporary = found.name.startswith((f".{RECIPE}.", f".{MANIFEST}."))
        if not found.is_file() or not (temporary or found.name in (RECIPE, LOCK)):
            return False
        if found.name == RECIPE and found.read_bytes() != recipe_text.encode():
            return False
    return True


def make_room(path: Path, recipe_text: str, force: bool) -> None:
    """Remove the files of the run that a folder holds, and only those; raise RunDirError where that is not wanted."""
    if not (path / MANIFEST).is_file():
        if only_leftovers(path, recipe_text):
            return
        raise RunDirError(f"{path} is not empty and no run directory", "choose another --out")
    if not force:
        raise RunDirError(f"{path} holds a run already", "choose another --out, or add --force to replace it")
    for name in OWNED:
        if (path / name).is_symlink():  # nothing could be written through it
            (path / name).unlink()
    old = read_manifest(path / MANIFEST)
    partial = [f"{PROFILES}/{file.name}" for file in (path / PROFILES).glob("*.partial")]
    remove_files(path, [*old["files"], LOG, *partial])
    sweep(path)
