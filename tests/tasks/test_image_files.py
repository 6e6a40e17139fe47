"""Where images come from: folders and what of them is not read, arrays and how they may be malformed."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from tasks.tasks_sample import recipe_of

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import image_classification as image

IMAGES = Task(name="t", kind="image-classification")


def changed(**keys: Any) -> Task:
    return Task.model_validate({**IMAGES.model_dump(), **keys})


def pictures(folder: Path, form: str, **counts: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, count in counts.items():
        pixels, labels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 2
        if form == "npz":
            np.savez(folder / f"{name}.npz", images=pixels, labels=labels)
        for i in range(count if form == "folders" else 0):
            place = folder / name / f"class-{labels[i]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(place / f"{i:02d}.png")
    return folder


@pytest.mark.parametrize("form", ["folders", "npz"])
def test_images_follow_the_same_rules(tmp_path: Path, form: str) -> None:
    end = "/" if form == "folders" else ".npz"
    recipe = recipe_of(IMAGES)
    full = image.TASK.load(recipe, pictures(tmp_path / "full", form, train=20, val=6, test=4, extra=2))
    assert full.test is not None and [len(s) for s in (full.train, full.validation, full.test)] == [20, 6, 4]
    assert full.notes[:2] == (
        f"train 20 rows of train{end}; validation 6 rows of val{end}; test 4 rows of test{end}",
        f"not used of full: 1 (extra{end.strip('/')})",
    )
    assert len(full.notes) == 3 and full.notes[2].endswith("those of the training images")
    less = image.TASK.load(recipe, pictures(tmp_path / "less", form, train=20, test=4))
    assert less.test is not None and [len(s) for s in (less.train, less.validation, less.test)] == [18, 2, 4]
    alone = image.TASK.load(recipe, pictures(tmp_path / "alone", form, train=20))
    assert alone.test is not None and [len(s) for s in (alone.train, alone.validation, alone.test)] == [16, 2, 2]
    with pytest.raises(DataError, match="no split `valdation`"):
        image.TASK.load(recipe_of(changed(validation_split="valdation")), tmp_path / "full")


def test_class_folders_without_splits_are_train(tmp_path: Path) -> None:
    root = pictures(tmp_path, "folders", train=20) / "train"
    found = image.TASK.load(recipe_of(IMAGES), root)
    assert found.labels == ("class-0", "class-1") and (len(found.train), len(found.validation)) == (16, 2)


def test_splits_of_several_sizes_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "npz", train=20, validation=6)
    np.savez(tmp_path / "test.npz", images=np.zeros((4, 6, 6, 3), np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(DataError, match="train of 8 x 8, validation of 8 x 8, test of 6 x 6"):
        image.TASK.load(recipe_of(IMAGES), tmp_path)


def test_a_metric_that_a_split_does_not_allow_is_refused_at_once(tmp_path: Path) -> None:
    pictures(tmp_path, "npz", train=20, validation=1)
    with pytest.raises(DataError, match="roc_auc cannot be computed on the validation split"):
        image.TASK.load(recipe_of(changed(metric="roc_auc")), tmp_path)


# --- folders, and what of them is not read ---


def notes(data: Path) -> tuple[str, ...]:
    return image.TASK.load(recipe_of(IMAGES), data).notes


@pytest.mark.parametrize("root", ["", "train"])
def test_what_systems_and_editors_keep_is_skipped(tmp_path: Path, root: str) -> None:
    pictures(tmp_path, "folders", train=20, val=6, test=4)
    data = tmp_path / root
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/._0.png", "__MACOSX/class-0/._0.png", ".DS_Store"):
        for place in (data, data / "class-0" if root else data / "train"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"no image")
    found = image.TASK.load(recipe_of(IMAGES), data)
    assert found.labels == ("class-0", "class-1") and not any("not used" in note for note in found.notes)
    assert len(found.train) + len(found.validation) + len(found.test or ()) == (20 if root else 30)


@pytest.mark.parametrize("ending", ["jfif", "tif", "JPG", "img", ""])
def test_images_of_other_endings_are_read(tmp_path: Path, ending: str) -> None:
    pictures(tmp_path, "folders", train=20)
    for path in (tmp_path / "train").rglob("*1.png"):
        path.rename(path.with_suffix(f".{ending}" if ending else ""))
    found = image.TASK.load(recipe_of(IMAGES), tmp_path)
    assert len(found.train) + len(found.validation) + len(found.test or ()) == 20


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    pictures(tmp_path, "folders", train=20)
    Image.new("RGB", (8, 8)).save(tmp_path / "train/class-0/a.avif")
    assert len(image.TASK.load(recipe_of(IMAGES), tmp_path).train) == 17


def test_everything_else_that_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    pictures(tmp_path, "folders", train=20, val=6, test=4, extra=2)
    (tmp_path / "train/class-0/deeper").mkdir()
    shutil.copy(tmp_path / "train/class-0/00.png", tmp_path / "train/class-0/deeper/x.png")
    (tmp_path / "train/class-1/notes.txt").write_text("a label", encoding="utf-8")
    (tmp_path / "val/labels.csv").write_text("a,b", encoding="utf-8")
    (line,) = [note for note in notes(tmp_path) if "not used" in note]
    assert line.startswith(f"not used of {tmp_path.name}: 4 (extra, train/class-0/deeper/x.png, train/class-1/notes")
    flat = [note for note in notes(tmp_path / "train") if "not used" in note]
    assert flat == ["not used of train: 2 (class-0/deeper/x.png, class-1/notes.txt)"]


def test_classes_whose_images_lie_deeper_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "folders", train=20)
    (tmp_path / "train/class-2/deeper").mkdir(parents=True)
    shutil.copy(tmp_path / "train/class-0/00.png", tmp_path / "train/class-2/deeper/x.png")
    with pytest.raises(DataError, match="class folders without images: class-2"):
        notes(tmp_path)


def test_splits_without_class_folders_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "folders", train=20)
    for name in ("test", "val"):  # two splits of unlabelled images are not two classes
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "train/class-0/00.png", tmp_path / name / "0.png")
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(DataError, match="test has no class folders") as caught:
        notes(tmp_path)
    assert 'task.test_split=""' in caught.value.hint
    shutil.copytree(tmp_path / "test", tmp_path / "flat/val")
    shutil.copytree(tmp_path / "test", tmp_path / "flat/test")
    with pytest.raises(DataError, match="no split `train`"):
        notes(tmp_path / "flat")


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("training", "dev", "eval")])
def test_folders_of_other_names_are_splits_too(tmp_path: Path, names: tuple[str, str, str]) -> None:
    pictures(tmp_path, "folders", train=20, val=6, test=4)
    for old, new in zip(("train", "val", "test"), names, strict=True):
        (tmp_path / old).rename(tmp_path / f"{old}-moved").rename(tmp_path / new)
    found = image.TASK.load(recipe_of(IMAGES), tmp_path)
    assert found.test is not None and [len(s) for s in (found.train, found.validation, found.test)] == [20, 6, 4]


# --- arrays ---

PIXELS = np.zeros((6, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (PIXELS.transpose(0, 3, 1, 2), "channels come first"),
        (np.zeros((6, 8, 8, 5), np.uint8), "of 5 channels"),
        (np.zeros((6, 8, 8, 2), np.uint8), "of 2 channels"),
        (np.zeros((6, 1, 8, 8), np.uint8), "channels come first"),
        (PIXELS.astype(np.uint16), "uint16"),
    ],
)
def test_arrays_of_other_layouts_are_refused(tmp_path: Path, images: np.ndarray, says: str) -> None:
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(6) % 2)
    with pytest.raises(DataError, match=says):
        notes(tmp_path)


def test_labels_of_other_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=PIXELS, labels=np.eye(2)[np.arange(6) % 2])
    with pytest.raises(DataError, match=r"labels \(6, 2\)"):
        notes(tmp_path)


@pytest.mark.parametrize("kind", ["truncated", "empty", "npy", "pickle"])
def test_files_that_are_no_npz_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "train.npz"
    np.savez(path, images=PIXELS, labels=np.array(["a", None, "b"] * 2, dtype=object))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "npy":
        out = io.BytesIO()
        np.save(out, PIXELS)
        path.write_bytes(out.getvalue())
    with pytest.raises(DataError, match=r"train\.npz cannot be read"):
        notes(tmp_path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "value", [b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"II*\0\xff\xff\xff\xff", b"P6\n9 9\n255\n"]
)
def test_damaged_files_are_named_whatever_the_decoder_raises(tmp_path: Path, value: bytes) -> None:
    pictures(tmp_path, "folders", train=20)
    (tmp_path / "train/class-0/bad.png").write_bytes(value)
    with pytest.raises(DataError, match=r"1 of 21 images of train cannot be decoded: .*bad\.png"):
        notes(tmp_path)
