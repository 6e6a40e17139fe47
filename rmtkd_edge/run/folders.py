"""Folders that are replaced file by file: what a list names is removed, what others put there stays."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from rmtkd_edge.errors import RunDirError


def files_of(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it and with slashes, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def inside(root: Path, rel: str) -> Path:
    """Return the full path of a file in a folder; raise RunDirError for one that would lie outside, by a link too."""
    top = root.resolve()
    try:
        path = (top / rel).resolve()
    except (ValueError, OSError) as err:  # a zero byte, a loop of links
        raise RunDirError(f"{rel!r} is no path in {root}: {err}") from err
    if path != top and top not in path.parents:
        raise RunDirError(f"{rel!r} points outside of {root}")
    return path


def remove_files(root: Path, names: Iterable[str]) -> None:
    """Remove files of a folder, and the folders in it that are empty then; a link goes, not what it points to.

    Raises:
        RunDirError: a name points outside, or a file cannot be removed.
    """
    parents: set[Path] = set()
    for name in names:
        path = inside(root, str(Path(name).parent)) / Path(name).name
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            raise RunDirError(f"cannot remove {path}: {err.strerror or err}", "check its permissions") from err
        parents |= {folder for folder in path.parents if root.resolve() in folder.parents}
    for folder in sorted(parents, key=lambda found: len(found.parts), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def move_files(built: Path, target: Path, names: Iterable[str]) -> None:
    """Move files of a folder to the same places in another one on the same file system, in the order given."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (built / name).replace(target / name)


def replace_folder(built: Path, target: Path, ours: Sequence[str], index: str) -> None:
    """Put a new folder in the place of an old one, of which only the files `ours` are removed.

    Args:
        index: the file that lists the others. It goes last and comes first, so that a folder which a kill left between
            the two is still known for one of ours.

    Raises:
        RunDirError: somebody's file has the name of a new one; nothing was changed then.
    """
    refuse_foreign(built, target, ours)
    if target.is_dir():
        remove_files(target, sorted(ours, key=lambda name: name == index))
        if not any(target.iterdir()):
            target.rmdir()
    if target.exists():
        move_files(built, target, sorted(files_of(built), key=lambda name: name != index))
    else:
        built.rename(target)


def refuse_foreign(built: Path, target: Path, ours: Collection[str]) -> None:
    """Raise RunDirError where a file that is not one of `ours` has the place of a new one."""
    for name in files_of(built):
        place = inside(target, name)
        if name not in ours and place.exists():
            raise RunDirError(f"{place} is there and was not written by this program", "move it away")


def sweep_builds(target: Path, names: Collection[str]) -> None:
    """Remove the temporary folders that killed processes left next to `target` (`.NAME.xxxxxxxx`).

    Args:
        names: all that such a folder may hold at its top.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}")
    for folder in target.parent.iterdir() if target.parent.is_dir() else ():
        found = pattern.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
        if found and {path.name for path in folder.iterdir()} <= set(names):
            shutil.rmtree(folder, ignore_errors=True)
