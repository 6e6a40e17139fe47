"""The run directory: one manifest with a hash for every file, atomic writes, checked reads.

The stages exchange data here and nowhere else. A file counts as written once it is in the manifest; one that was left
unfinished by a kill is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.hashing import digest_of, sha256_file
from rmtkd_edge.run.folders import files_of, inside, move_files, refuse_foreign, remove_files
from rmtkd_edge.run.layout import MANIFEST, RECIPE
from rmtkd_edge.run.leftovers import make_room
from rmtkd_edge.run.records.base import Document, check_size, from_json, parse_json, to_json
from rmtkd_edge.run.records.manifest import REMOVING, SCHEMA, read_manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

D = TypeVar("D", bound=Document)


def package_version() -> str:
    """Return the installed version of this package."""
    try:
        return version("rmtkd-edge")
    except PackageNotFoundError:
        return "0+unknown"


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part; raise RunDirError otherwise."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 (a test makes it fail)
    except OSError as err:
        raise RunDirError(
            f"cannot write {path}: {err.strerror or err}", "free space or choose another --out; the run resumes"
        ) from err
    finally:
        if temporary is not None:  # gone already where all went well
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


class Run:
    """A run directory that is open; all `rel` paths are relative to it, with forward slashes."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.read_only = False  # of several processes one writes
        self._lock = threading.Lock()  # devices are measured at the same time, and share the manifest

    @staticmethod
    def create(path: Path | str, recipe_text: str, seed: int, force: bool = False) -> Run:
        """Create a run directory; raise RunDirError where one (or any other file) is there already and not `force`.

        `force` replaces a run and leaves files that are none of its own; a folder that is no run is never emptied.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunDirError(f"{path} is a file, not a folder", "choose another --out")
        if path.is_dir() and any(path.iterdir()):
            make_room(path, recipe_text, force)
        manifest = {
            "schema": SCHEMA,
            "version": package_version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "recipe_sha256": hashlib.sha256(recipe_text.encode()).hexdigest(),
            "files": {},
            "stages": {},
        }
        run = Run(path, manifest)
        run._save()  # first of all, so that a folder with anything of a run in it is known for one
        run.write_text(RECIPE, recipe_text)
        return run

    @staticmethod
    def open(path: Path | str) -> Run:
        """Open a run directory; raise RunDirError where there is none, or one of another schema."""
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file():
            raise RunDirError(
                f"{path} is no run directory (it has no {MANIFEST})", "rmtkd-edge compress RECIPE --out DIR makes one"
            )
        manifest = read_manifest(file)
        manifest.pop(REMOVING, None)  # swept where this process may write; one that is written again must stay
        return Run(path, manifest)

    def path_of(self, rel: str) -> Path:
        """Return the full path of a file in the run; raise RunDirError for one that would lie outside."""
        return inside(self.path, rel)

    def has(self, rel: str) -> bool:
        """Return whether a file is recorded in the manifest."""
        return rel in self.manifest["files"]

    def write_bytes(self, rel: str, data: bytes) -> Path:
        """Write a file atomically and record its hash."""
        path = self.path_of(rel)
        if self.read_only:
            return path
        atomic_write_bytes(path, data)
        with self._lock:
            self.manifest["files"][rel] = hashlib.sha256(data).hexdigest()
            self._save()
        return path

    def write_text(self, rel: str, text: str) -> Path:
        """Write a UTF-8 text file."""
        return self.write_bytes(rel, text.encode("utf-8"))

    def write_json(self, rel: str, value: Any) -> Path:
        """Write JSON; NaN and infinity are refused, a figure that is not there is null."""
        return self.write_text(rel, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def write_tensors(self, rel: str, tensors: Mapping[str, Tensor]) -> Path:
        """Write tensors as safetensors."""
        from safetensors.torch import save

        return self.write_bytes(rel, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))

    def read_bytes(self, rel: str) -> bytes:
        """Read a recorded file; raise RunDirError naming it and both hashes if it is not what was written."""
        path = self.path_of(rel)
        wanted = self.manifest["files"].get(rel)
        if wanted is None or not path.is_file():
            raise RunDirError(f"{path} is missing from this run", "run the stage that writes it again")
        try:
            data = path.read_bytes()
        except OSError as err:
            raise RunDirError(f"{path} cannot be read: {err.strerror or err}", "check its permissions") from err
        found = hashlib.sha256(data).hexdigest()
        if found != wanted:
            raise RunDirError(
                f"{path} was changed or cut off: its sha256 is {found}, {MANIFEST} says {wanted}",
                "restore the file, or run the stage that writes it again with --force",
            )
        return data

    def read_text(self, rel: str) -> str:
        """Read a recorded text file."""
        return self.read_bytes(rel).decode("utf-8")

    def read_json(self, rel: str) -> Any:
        """Read a recorded JSON file."""
        path = self.path_of(rel)
        if self.has(rel) and path.is_file():
            check_size(path)
        return parse_json(self.read_bytes(rel), path)

    def read_record(self, cls: type[D], rel: str) -> D:
        """Read a recorded JSON file as a record; raise RunDirError naming the file and what is wrong with it."""
        return from_json(cls, self.read_json(rel), self.path_of(rel), str(self.manifest.get("version", "")))

    def write_record(self, rel: str, record: Document) -> Path:
        """Write a record as JSON; raise RunDirError for one that could not be read again (its writer is at fault)."""
        data = to_json(record)
        from_json(type(record), data, self.path_of(rel))
        return self.write_json(rel, data)

    def read_tensors(self, rel: str) -> dict[str, Tensor]:
        """Read a recorded safetensors file."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self.read_bytes(rel))
        except SafetensorError as err:
            raise RunDirError(f"{self.path_of(rel)} is no valid safetensors file: {err}") from err

    def read_arrays(self, rel: str) -> dict[str, NDArray[Any]]:
        """Read a recorded safetensors file as arrays, without torch."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return load(self.read_bytes(rel))
        except SafetensorError as err:
            raise RunDirError(f"{self.path_of(rel)} is no valid safetensors file: {err}") from err

    def record(self, rel: str) -> None:
        """Put a file, or all files of a folder, that somebody else wrote into the run into the manifest."""
        path = self.path_of(rel)
        root = self.path.resolve()
        if not path.exists():
            raise RunDirError(f"{path} is missing from this run", "run the stage that writes it again")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        hashes = {file.relative_to(root).as_posix(): sha256_file(file) for file in files}
        with self._lock:
            self.manifest["files"].update(hashes)
            self._save()

    def install(self, rel: str, built: Path) -> None:
        """Put a folder that was filled elsewhere on this file system into the run, in the place of an earlier one."""
        self.remove(rel)
        target = self.path_of(rel)
        refuse_foreign(built, target, ())
        with self._lock:  # listed before they are there, so that nothing of the run is ever taken for somebody's file
            self.manifest["files"].update({f"{rel}/{name}": sha256_file(built / name) for name in files_of(built)})
            self._save()
        try:
            move_files(built, target, files_of(built))
        except OSError as err:
            raise RunDirError(f"cannot write {target}: {err.strerror or err}", "check its permissions") from err

    def remove(self, rel: str) -> None:
        """Remove a file, or all files of a folder, from the run; what others put there stays."""
        self.path_of(rel)
        with self._lock:
            gone = [name for name in self.manifest["files"] if name == rel or name.startswith(f"{rel}/")]
            if not gone:
                return
            for name in gone:
                del self.manifest["files"][name]
            self.manifest[REMOVING] = gone  # until the next change, so that a kill in between leaves nothing for good
            self._save()
            if not self.read_only:
                remove_files(self.path, gone)
            del self.manifest[REMOVING]

    def verify(self, rel_prefix: str = "") -> None:
        """Check the hash of every recorded file under a prefix; raise RunDirError for the first that differs."""
        for rel in sorted(self.manifest["files"]):
            if rel.startswith(rel_prefix):
                self.read_bytes(rel)

    def damaged(self, rel_prefix: str = "") -> dict[str, str]:
        """Return what is wrong with every recorded file under a prefix that is not what was written, by its path."""
        found = {}
        for rel in sorted(self.manifest["files"]):
            try:
                if rel.startswith(rel_prefix) and sha256_file(self.path_of(rel)) != self.manifest["files"][rel]:
                    found[rel] = "was changed or cut off"
            except FileNotFoundError:
                found[rel] = "is missing"
            except (OSError, RunDirError) as err:
                found[rel] = f"cannot be read: {getattr(err, 'strerror', None) or err}"
        return found

    def stage(self, name: str) -> dict[str, Any]:
        """Return what is known of a stage ({} if it has not run)."""
        return self.manifest["stages"].get(name, {})

    def mark(self, name: str, state: str, **facts: Any) -> None:
        """Set a stage's state (`running` or `done`) and add facts to it."""
        with self._lock:
            entry = {**self.stage(name), **facts, "state": state}
            if state == "done":
                entry["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
            self.manifest["stages"][name] = entry
            self._save()

    def _save(self) -> None:
        if self.read_only:
            return
        document = {**self.manifest, "digest": digest_of(self.manifest)}
        atomic_write_bytes(self.path / MANIFEST, (json.dumps(document, indent=1) + "\n").encode())
