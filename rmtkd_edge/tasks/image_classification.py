"""Image classification: uint8 images in memory, normalised and augmented batch by batch in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.tasks.base import Batch, Dataset, Exported, Normalisation, Prediction, Task
from rmtkd_edge.tasks.classification import Classification, check_metric, most_likely
from rmtkd_edge.tasks.labelled import joined
from rmtkd_edge.tasks.reading.clients import compare_pictures
from rmtkd_edge.tasks.reading.digests import rows_digest
from rmtkd_edge.tasks.reading.images import ImagePreprocessing, load_pixels, room, summaries
from rmtkd_edge.tasks.reading.labels import label_names, label_notes, label_numbers
from rmtkd_edge.tasks.reading.pictures import RESAMPLE, read_picture
from rmtkd_edge.tasks.reading.splits import Source, share_out
from rmtkd_edge.tasks.reading.stratify import Classes
from rmtkd_edge.tasks.reading.usage import HubTask, image_clients
from rmtkd_edge.tasks.subsets import Subsets, draw_subsets

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.base import Spec

CHUNK = 4096  # images that are held as floats, or twice, at once
SHIFT = 8  # random crops move an image by up to 1/8 of its side
TRIAL_IMAGES = 512  # fitted on where closed forms are only compared

Augment = Literal["none", "crop", "crop-flip"]
Picture = Any  # a path, a PIL image or an array


@dataclass(frozen=True)
class ImageSplit:
    """Images uint8 (n, H, W, 3), labels (n,) int64, and how images are augmented where rows are shuffled.

    Attributes:
        rows: their numbers (n,) in the part of the source that they come from.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    augment: Augment = "none"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> ImageSplit:
        """Return the rows of the given numbers, in their order."""
        images = room((len(indices), *self.images.shape[1:]))
        for start in range(0, len(indices), CHUNK):
            images[start : start + CHUNK] = self.images[indices[start : start + CHUNK]]
        return ImageSplit(images, self.labels[indices], self.rows[indices], self.augment)


class ImageClassification(Classification):
    """One label for an image."""

    name = "image-classification"
    modality = "image"
    evaluation_batch = 128
    hub = HubTask("image-classification", "single_label_classification", image_clients)
    required_keys: Mapping[str, str] = {}

    def load(
        self,
        recipe: Recipe,
        data: Path | None,
        *,
        kept: Path | None = None,
        source_normalisation: Normalisation | None = None,
    ) -> Dataset[ImageSplit]:
        """Return the decoded images of a recipe.

        They are normalised as `kept` says, else the recipe, else the source, else by the training images' own moments.

        Raises:
            DataError: what cannot be decoded, several sizes, no rows, a single class, labels out of range.
        """
        task = recipe.task
        known = None if kept is None else ImagePreprocessing.read(kept)
        source = load_pixels(task, data, RESAMPLE if known is None else known.resample)
        names = label_names(task, source.parts["train"].table)
        parts = {
            role: ImageSplit(
                pixels.images, label_numbers(task, pixels.table, role, names), np.arange(len(pixels.images))
            )
            for role, pixels in source.parts.items()
        }
        classes = Classes(names, parts["train"].labels)
        shares = share_out(task, Source(parts, source.origins, source.unused), recipe.seed, classes)
        splits = shares.parts
        _check_sizes(splits)
        for role in splits.keys() - {"train"}:
            check_metric(task, names, role, splits[role].labels)
        held = source.parts.get("validation", source.parts["train"])
        preprocessing, whose = _preprocessing(task, splits["train"].images, known, source_normalisation)
        return Dataset(
            task.name,
            tuple(names),
            replace(splits["train"], augment=task.augment),
            splits["validation"],
            splits.get("test"),
            preprocessing,
            (
                *shares.notes,
                *label_notes(task, source.parts["train"].table),
                *(note for pixels in source.parts.values() for note in pixels.notes),
                whose,
                *self.absent(names, {role: split.labels for role, split in splits.items()}),
            ),
            sources=summaries(source),
            not_used=source.unused,
            augmented=task.augment != "none",
            digests={role: rows_digest(names, split.images, split.labels) for role, split in splits.items()},
            samples=held.samples(splits["validation"].rows),
        )

    def seen(self, dataset: Dataset[ImageSplit], row: int) -> str:
        """Return the size of an image of train, and the moments of its pixels before and after normalisation."""
        image, how = dataset.train.images[row], dataset.preprocessing
        shares = image.astype(np.float64) / 255
        values = (shares - how.mean) / how.std
        return (
            f"{image.shape[1]}x{image.shape[0]} pixels of mean {shares.mean():.3f} and std {shares.std():.3f}, "
            f"normalised {values.mean():.3f} and {values.std():.3f}"
        )

    def batches(
        self, dataset: Dataset[ImageSplit], split: ImageSplit, batch_size: int, seed: int | None
    ) -> Iterator[Batch]:
        """Yield pixel_values float32 (B, 3, H, W), normalised; `labels` and `index`, int64.

        Pixels are in the order channels-last, in which CPUs convolve faster, and in which every state of a net of
        convolutions then is: one row a pixel, as states are matched, is no copy.

        With a seed the rows are shuffled and, where the split says so, augmented (`crop`: shifted by up to 1/8, black
        beyond the edge; `crop-flip`: flipped too); without one they come in order, as they are.
        """
        import torch

        rng = None if seed is None else np.random.default_rng(seed)
        order = np.arange(len(split)) if rng is None else rng.permutation(len(split))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            images = split.images[rows]
            if rng is not None and split.augment != "none":
                images = augmented(images, rng, flip=split.augment == "crop-flip")
            pixels = normalised(images, dataset.preprocessing)
            yield {
                "pixel_values": pixels.contiguous(memory_format=torch.channels_last),
                "labels": torch.from_numpy(split.labels[rows]),
                "index": torch.from_numpy(rows.astype(np.int64)),
            }

    def subsets(self, dataset: Dataset[ImageSplit], recipe: Recipe) -> Subsets:
        """Return rows of train; closed forms are fitted on the recipe's number of images."""
        images = recipe.compress.warm_start_images
        return draw_subsets(len(dataset.train), recipe, lambda order: (images, min(images, TRIAL_IMAGES)))

    def preprocessing_of(self, spec: Spec, tokenizer: Any) -> ImagePreprocessing:
        """Return the size and normalisation that the spec names."""
        return ImagePreprocessing.of(spec)

    def save_preprocessing(self, dataset: Dataset[ImageSplit], folder: Path) -> None:
        """Write preprocessor_config.json."""
        dataset.preprocessing.save(folder)

    def verification_batches(
        self, batches: Iterable[Mapping[str, Tensor]], spec: Spec, max_length: int | None = None
    ) -> list[Batch]:
        """Return held-out batches, and one image alone, with the inputs of the spec."""
        names = [item.name for item in spec.inputs]
        found = [{name: batch[name] for name in names if name in batch} for batch in batches]
        if not found:
            raise DataError("there are no held-out rows to verify on", "set export.verify_rows to 1 or more")
        return [*found, {name: tensor[:1] for name, tensor in found[0].items()}]

    def check_preprocessing(self, dataset: Dataset[ImageSplit], folder: Path, spec: Spec) -> tuple[str, ...]:
        """Compare what transformers makes of a few raw pictures with what training was fed; note odd ones."""
        images = dataset.validation.images[[sample.row for sample in dataset.samples]]
        wanted = normalised(images, dataset.preprocessing).numpy()
        return compare_pictures(folder, dataset.samples, wanted, dataset.preprocessing.std)

    def predictor(self, folder: Path, record: Exported, run: Callable[[Batch], np.ndarray]) -> ImagePredictor:
        """Return what classifies images with an exported folder."""
        return ImagePredictor(ImagePreprocessing.read(folder), record.labels, run)


class ImagePredictor:
    """An image classifier."""

    def __init__(
        self, preprocessing: ImagePreprocessing, labels: Sequence[str], run: Callable[[Batch], np.ndarray]
    ) -> None:
        self.preprocessing, self.labels, self.run = preprocessing, labels, run

    def predict(self, items: Sequence[Picture], batch_size: int = 32) -> Prediction:
        """Classify images: file paths, PIL images or uint8 arrays (H, W) or (H, W, 3), resized to the model's size."""
        if isinstance(items, (str, Path)):
            raise UserError("predict takes a list of images", "predict([image])")
        parts = []
        for start in range(0, len(items), batch_size):
            part, how = items[start : start + batch_size], self.preprocessing
            taken = [read_picture(item, how.image_size, how.pixel_range, how.resample) for item in part]
            parts.append(self.run({"pixel_values": normalised(np.stack(taken), self.preprocessing)}))
        return joined(parts, self.labels, most_likely)


def _preprocessing(
    task: TaskSettings, train: np.ndarray, kept: ImagePreprocessing | None, source: Normalisation | None
) -> tuple[ImagePreprocessing, str]:
    """Return how images become inputs, and a line on whose mean and std they are."""
    if kept is not None:
        return kept, "images are normalised as in training"
    if task.mean is not None and task.std is not None:
        found: Normalisation = (task.mean, task.std)
        whose = "as the recipe says"
    elif source is not None:
        found, whose = source, "with which the model's weights were trained"
    else:
        found, whose = moments(train), "those of the training images"
    return ImagePreprocessing(tuple(found[0]), tuple(found[1]), train.shape[1], task.pixel_range), (
        f"images are normalised by mean {_rounded(found[0])} and std {_rounded(found[1])}, {whose}"
    )


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def _check_sizes(splits: Mapping[str, ImageSplit]) -> None:
    shapes = {role: split.images.shape[1:3] for role, split in splits.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{role} of {height} x {width}" for role, (height, width) in shapes.items())
        raise DataError(f"images differ in size: {told}", "--set task.image_size=32 resizes all of them")


def moments(images: np.ndarray, chunk: int = CHUNK) -> tuple[tuple[float, ...], tuple[float, ...]]:
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


def normalised(images: np.ndarray, preprocessing: ImagePreprocessing) -> Tensor:
    """Return uint8 images (B, H, W, 3) as float32 (B, 3, H, W)."""
    import torch

    std = torch.tensor(preprocessing.std)
    scale, shift = std.mul(255.0), torch.tensor(preprocessing.mean).div(std)
    values = torch.from_numpy(np.ascontiguousarray(images)).float().div_(scale).sub_(shift)
    # not channels last: torch 2.14's CPU convolutions then corrupt the heap for uneven channel counts
    return values.permute(0, 3, 1, 2).contiguous()


def augmented(images: np.ndarray, rng: np.random.Generator, flip: bool) -> np.ndarray:
    """Return uint8 images (B, H, W, 3) shifted at random, black beyond the edge, and flipped where `flip`."""
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


TASK: Task[ImageSplit] = ImageClassification()
