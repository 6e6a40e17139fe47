"""Image classification: uint8 images in memory, normalised and augmented batch by batch in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.errors import DataError
from rmtkd_edge.config.recipe import Task
from rmtkd_edge.tasks.reading.images import Pixels, load_pixels
from rmtkd_edge.tasks.reading.labels import held_out, label_names, label_numbers

SHIFT = 8  # random crops move an image by up to 1/8 of its side


@dataclass(frozen=True)
class ImageSplit:
    """Images uint8 (n, H, W, 3) and labels (n,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSplit:
        """Return the rows of the given numbers, in their order."""
        return ImageSplit(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class ImageTask:
    """A decoded data set; `mean` and `std` are the training images' per channel, of values in [0, 1]."""

    name: str
    labels: list[str]
    train: ImageSplit
    validation: ImageSplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    notes: tuple[str, ...] = ()
    metric: str = "accuracy"


def load_image_task(task: Task, data: Path | None, seed: int) -> ImageTask:
    """Return the decoded splits of a task.

    Where there is no validation split, `task.validation_fraction` of train is held out under `seed`. Raises DataError
    for what cannot be decoded, several sizes, no rows, a single class, and labels out of range.
    """
    pixels = load_pixels(task, data)
    names = label_names(task, pixels["train"].table)
    train = _split(task, pixels["train"], "train", names)
    if "validation" in pixels:
        validation = _split(task, pixels["validation"], "validation", names)
    else:
        kept, held = held_out(task, len(train), seed)
        train, validation = train.take(kept), train.take(held)
    if train.images.shape[1:] != validation.images.shape[1:]:
        raise DataError(
            f"train has images of {train.images.shape[1:3]}, validation of {validation.images.shape[1:3]}",
            "--set task.image_size=32 resizes all of them",
        )
    rng = np.random.default_rng([seed, 2])
    train, validation = _limit(train, task.train_limit, rng), _limit(validation, task.validation_limit, rng)
    mean, std = moments(train.images)
    notes = tuple(note for part in pixels.values() for note in part.notes)
    return ImageTask(task.name, names, train, validation, mean, std, train.images.shape[1], notes)


def _split(task: Task, pixels: Pixels, where: str, names: list[str]) -> ImageSplit:
    return ImageSplit(pixels.images, label_numbers(task, pixels.table, where, names))


def _limit(split: ImageSplit, limit: int | None, rng: np.random.Generator) -> ImageSplit:
    if limit is None or len(split) <= limit:
        return split
    return split.take(np.sort(rng.permutation(len(split))[:limit]))


def moments(images: np.ndarray, chunk: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images (n, H, W, 3), as shares of 255."""
    count = 0
    total: np.ndarray = np.zeros(3)
    square: np.ndarray = np.zeros(3)
    for start in range(0, len(images), chunk):
        part: np.ndarray = images[start : start + chunk].reshape(-1, 3).astype(np.float64) / 255
        total += part.sum(0)
        square += (part**2).sum(0)
        count += len(part)
    mean: np.ndarray = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 1e-12))  # a constant channel has no spread
    return tuple(float(v) for v in mean), tuple(float(v) for v in std)


def steps(split: ImageSplit, batch_size: int) -> int:
    """Return the number of batches of an epoch."""
    return -(-len(split) // batch_size)


def batches(
    split: ImageSplit, batch_size: int, mean: tuple[float, ...], std: tuple[float, ...], seed: int | None,
    augment: str = "none",
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Yield pixel_values float32 (B, 3, H, W), normalised; labels and `index`, int64.

    With a seed the rows are shuffled and augmented (`crop`: shifted by up to 1/8, black beyond the edge; `crop-flip`:
    mirrored too); without one they come in order, as they are.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    order = np.arange(len(split)) if rng is None else rng.permutation(len(split))
    scale = torch.tensor(std).mul(255.0)
    shift = torch.tensor(mean).div(torch.tensor(std))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        images = split.images[index]
        if rng is not None and augment != "none":
            images = augmented(images, rng, flip=augment == "crop-flip")
        values = torch.from_numpy(np.ascontiguousarray(images)).float().div_(scale).sub_(shift)
        yield {
            # not channels last: torch 2.14's CPU convolutions then corrupt the heap for uneven channel counts
            "pixel_values": values.permute(0, 3, 1, 2).contiguous(),
            "labels": torch.from_numpy(split.labels[index]),
            "index": torch.from_numpy(index.astype(np.int64)),
        }


def augmented(images: np.ndarray, rng: np.random.Generator, flip: bool) -> np.ndarray:
    """Return uint8 images (B, H, W, 3) shifted at random, black beyond the edge, and mirrored where `flip`."""
    count, height, width, _ = images.shape
    pad = max(1, height // SHIFT)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y = rng.integers(0, 2 * pad + 1, (count,))
    x = rng.integers(0, 2 * pad + 1, (count,))
    rows = y[:, None] + np.arange(height)
    columns: np.ndarray = x[:, None] + np.arange(width)
    if flip:
        columns = np.where(rng.random((count,))[:, None] < 0.5, columns[:, ::-1], columns)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def preprocessor_config(task_mean: tuple[float, ...], std: tuple[float, ...], side: int) -> dict[str, Any]:
    """Return preprocessor_config.json as transformers' and transformers.js' image processors read it."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "feature_extractor_type": "ViTFeatureExtractor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(task_mean),
        "image_std": list(std),
        "do_convert_rgb": True,
    }
