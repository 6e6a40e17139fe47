"""Where a bundle is written: into an empty place, or over another bundle of which only its own files are removed."""

from __future__ import annotations

import json
import tarfile
from itertools import islice
from pathlib import Path

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.folders import files_of
from rmtkd_edge.run.records.base import from_json, read_json_file, to_json
from rmtkd_edge.run.records.bundle import BundleFiles

LIST = "bundle.json"
FIRST = 8  # members of an archive that its list is among, since they are sorted
BEFORE = 2**20  # bytes of a member that comes before the list, at most


def write_list(folder: Path) -> None:
    """Write the list of a bundle's files into it."""
    files = BundleFiles((*files_of(folder), LIST))
    (folder / LIST).write_text(json.dumps(to_json(files), indent=1), encoding="utf-8")


def read_list(folder: Path) -> tuple[str, ...]:
    """Return the files of a bundle, none where there is no folder; raise RunDirError for a folder without a list."""
    if not folder.exists():
        return ()
    hint = f"remove {folder} yourself, or choose another --out"
    return from_json(BundleFiles, read_json_file(folder / LIST, hint), folder / LIST).files


def refuse_place(out: Path, archive: Path, force: bool) -> None:
    """Raise RunDirError for a place that is no bundle's, or that holds one already and not `force`."""
    for path, ours in ((out, _is_bundle(out)), (archive, _is_archive(archive, out.name))):
        if (path.exists() or path.is_symlink()) and not ours:
            raise RunDirError(f"{path} is no bundle, and is not replaced", "choose another --out")
        if path.exists() and not force:
            raise RunDirError(f"{path} is there already", "add --force to replace it, or choose another --out")


def _is_bundle(out: Path) -> bool:
    return out.is_dir() and not out.is_symlink() and (out / LIST).is_file()


def _is_archive(archive: Path, name: str) -> bool:
    if not archive.is_file() or archive.is_symlink():
        return False
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in islice(tar, FIRST):
                if member.name == f"{name}/{LIST}":
                    return True
                if member.size > BEFORE:  # it would have to be unpacked to get past it
                    return False
            return False
    except (OSError, EOFError, tarfile.TarError):
        return False
