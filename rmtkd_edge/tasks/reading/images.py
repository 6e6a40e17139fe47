"""Images decoded to uint8 arrays of one size, and what a predictor must know of how that was done."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, RunDirError
from rmtkd_edge.run.records.base import read_json_file
from rmtkd_edge.run.records.data import SourceSummary
from rmtkd_edge.tasks.base import Sample
from rmtkd_edge.tasks.reading.clients import SAMPLES
from rmtkd_edge.tasks.reading.image_files import Item, encoded
from rmtkd_edge.tasks.reading.pictures import RESAMPLE, Picture, Range, open_picture, resized
from rmtkd_edge.tasks.reading.progress import tell_count, tell_source
from rmtkd_edge.tasks.reading.splits import Source

IN_MEMORY = 1_500_000_000  # bytes of decoded images; more lie in a temporary file that is mapped into memory
PREPROCESSOR = "preprocessor_config.json"
SIZES = 9  # that a summary names
TOLD = 1000  # images between two reports
SHOWN = 3  # names of unreadable files in a message
LEAST_USED = 1 / 8  # of the depth of deep images: below, 8 bits keep fewer than 5


@dataclass(frozen=True)
class ImagePreprocessing:
    """What turns an image into a model's input: its side in pixels, and mean and std per channel as shares of 255.

    Attributes:
        pixel_range: values of deep images that become black and white; those of their bit depth when left out.
        resample: the filter that resizes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    pixel_range: Range | None = None
    resample: Image.Resampling = RESAMPLE

    def save(self, folder: Path) -> None:
        """Write preprocessor_config.json as transformers' and transformers.js' image processors read it."""
        config: dict[str, Any] = {
            "image_processor_type": "ViTImageProcessor",
            "feature_extractor_type": "ViTFeatureExtractor",
            "do_resize": True,
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": int(self.resample),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }
        if self.pixel_range is not None:
            config["pixel_range"] = list(self.pixel_range)  # this package's own key
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
        config = read_json_file(path)
        try:
            found = config.get("pixel_range")
            deep = None if found is None else (float(found[0]), float(found[1]))
            moments = tuple(config["image_mean"]), tuple(config["image_std"])
            return cls(*moments, config["size"]["height"], deep, Image.Resampling(config["resample"]))
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            raise RunDirError(f"{path} cannot be read: {err}", "run the stage that writes it again") from err


@dataclass(frozen=True)
class Pixels:
    """Decoded images uint8 (n, H, W, 3), the label of each as the source has it, and what was done about odd ones.

    Attributes:
        items: where each comes from.
        kinds: what each was like: mode, whether it was resized, what else was done to it.
    """

    images: np.ndarray
    table: pa.Table
    notes: tuple[str, ...]
    seen: Seen
    items: Sequence[Item]
    kinds: Sequence[tuple[Any, ...]]

    def samples(self, rows: np.ndarray) -> tuple[Sample, ...]:
        """Return a few of these rows, raw, one of every kind among them; they are numbered as in `rows`."""
        first: dict[tuple[Any, ...], int] = {}
        for place, row in enumerate(rows):
            first.setdefault(self.kinds[row], place)
        found = []
        for place in sorted({*first.values(), *range(min(SAMPLES, len(rows)))}):
            name, get = self.items[rows[place]]
            item = get()
            found.append(Sample(place, name, item.copy() if isinstance(item, np.ndarray) else item))
        return tuple(found)


def load_pixels(task: Task, data: Path | None, resample: Image.Resampling = RESAMPLE) -> Source[Pixels]:
    """Return the images of the splits that a source has, decoded to RGB of one size.

    Args:
        resample: the filter that resizes.

    Raises DataError where nothing can be read, where sizes differ and task.image_size is not set, and, unless
    `task.unreadable` is `skip`, for files that cannot be decoded (named and counted).
    """
    found = encoded(task, data)
    for role, (items, _) in found.parts.items():
        tell_source(found.origins[role], len(items), role)
    parts = {role: decode(task, items, table, role, resample) for role, (items, table) in found.parts.items()}
    return Source(parts, found.origins, found.unused)


def summaries(source: Source[Pixels]) -> tuple[SourceSummary, ...]:
    """Return what was read, by role."""
    return tuple(
        SourceSummary(role, source.origins[role], len(found.images), found.seen.by_size, dict(found.seen.modes))
        for role, found in source.parts.items()
    )


def decode(
    task: Task, items: Sequence[Item], table: pa.Table, split: str, resample: Image.Resampling = RESAMPLE
) -> Pixels:
    """Return the images as one array; see load_pixels."""
    if not items:
        raise DataError(f"the {split} split has no images", f"check --data and task.{split}_split")
    kept: list[int] = []
    kinds: list[tuple[Any, ...]] = []
    bad: list[str] = []
    out: np.ndarray | None = None
    seen = Seen()
    for row, (name, get) in enumerate(items):
        if row % TOLD == 0:
            tell_count(f"images of {split} decoded", row, len(items))
        try:
            picture = open_picture(get(), task.pixel_range)
        except MemoryError:
            raise
        except Exception as err:  # Pillow's decoders raise nearly everything for damaged files
            bad.append(f"{name}: {str(err) or type(err).__name__}")
            continue
        seen.add(picture)
        image = picture.image if task.image_size is None else resized(picture.image, task.image_size, resample)
        _check_size(image, name, out, split)
        if out is None:
            out = room((len(items), image.height, image.width, 3))
        out[len(kept)] = np.asarray(image)
        kept.append(row)
        kinds.append((picture.mode, image is not picture.image, picture.changes))
    _judge(task, bad, len(items), split)
    seen.check(split)
    assert out is not None
    notes = [f"{len(bad)} of {len(items)} images of {split} were skipped: {'; '.join(bad[:SHOWN])}"] if bad else []
    return Pixels(
        out[: len(kept)],
        table.take(np.array(kept)),
        (*notes, *seen.notes(split, task.image_size)),
        seen,
        [items[row] for row in kept],
        kinds,
    )


@dataclass
class Seen:
    """What images of a split were like before they became RGB of one size, counted."""

    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # width, height
    changes: Counter[str] = field(default_factory=Counter)
    plain: int = 0  # images of one colour
    largest: float = 0.0  # value of deep images whose range nobody said
    limit: float = 0.0  # the value that became white

    @property
    def by_size(self) -> dict[str, int]:
        """Return how many images have each size, the most frequent ones first; of many, the rest together."""
        most = self.sizes.most_common(SIZES)
        rest = self.sizes.total() - sum(count for _, count in most)
        found = {f"{width}x{height}": count for (width, height), count in most}
        return {**found, "other": rest} if rest else found

    def add(self, picture: Picture) -> None:
        """Count an image."""
        self.modes[picture.mode] += 1
        self.sizes[picture.image.size] += 1
        self.changes.update(picture.changes)
        self.plain += picture.image.getcolors(1) is not None
        if picture.largest is not None and picture.limit is not None:
            self.largest, self.limit = max(self.largest, picture.largest), max(self.limit, picture.limit)

    def check(self, split: str) -> None:
        """Raise DataError where deep images use so little of their depth that 8 bits would be nearly black."""
        if self.largest < LEAST_USED * self.limit:
            raise DataError(
                f"the deep images of {split} have values up to {self.largest:.0f} of {self.limit:.0f} that their bits "
                "can hold: scaled to 8 bits they are nearly black",
                f"say which become black and white: --set task.pixel_range=[0,{max(1.0, self.largest):.0f}]",
            )

    def notes(self, split: str, side: int | None) -> list[str]:
        """Return what was done to the images, in lines for the user."""
        lines = [f"{split}: {count} images {change}" for change, count in sorted(self.changes.items())]
        if self.plain:
            lines.append(f"{split}: {self.plain} images are of one colour")
        if set(self.modes) != {"RGB"}:
            lines.append(f"{split}: images of modes {', '.join(sorted(self.modes))} were turned into RGB")
        others = sum(count for size, count in self.sizes.items() if size != (side, side))
        if side is not None and others:
            lines.append(f"{split}: {others} images were resized to {side} pixels a side")
        return lines


def _check_size(image: Image.Image, name: str, out: np.ndarray | None, split: str) -> None:
    """Raise DataError for an image that is not square, or not of the size of those before it."""
    if out is not None and out.shape[1:3] != (image.height, image.width):
        raise DataError(
            f"images of {split} have several sizes: {out.shape[2]}x{out.shape[1]}, and {name} has "
            f"{image.width}x{image.height}",
            "--set task.image_size=32 resizes all of them",
        )
    if image.width != image.height:
        raise DataError(
            f"images of {split} are not square, as models read them: {name} has {image.width}x{image.height} pixels",
            f"--set task.image_size={max(image.size)} resizes them, or crop them yourself",
        )


def _judge(task: Task, bad: Sequence[str], total: int, split: str) -> None:
    if bad and (task.unreadable == "stop" or len(bad) == total):
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"{len(bad)} of {total} images of {split} cannot be decoded: {'; '.join(bad[:SHOWN])}{more}",
            "repair or remove them, or --set task.unreadable=skip",
        )


def room(shape: tuple[int, ...]) -> np.ndarray:
    """Return an empty uint8 array, in memory or, where it is large, in a temporary file that ends with the process."""
    if int(np.prod(shape)) <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.NamedTemporaryFile(prefix="rmtkd-images-") as file:
        return np.memmap(file.name, np.uint8, "w+", shape=shape)
