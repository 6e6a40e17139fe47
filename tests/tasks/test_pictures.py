"""One image as RGB: deep values scaled by their depth, transparency on white, orientation turned, all of it said."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tasks.tasks_sample import recipe_of

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.run.records.base import from_json, to_json
from rmtkd_edge.run.records.data import DataSummary, describe
from rmtkd_edge.tasks import image_classification as image
from rmtkd_edge.tasks.base import Dataset
from rmtkd_edge.tasks.image_classification import ImageSplit
from rmtkd_edge.tasks.reading.images import ImagePreprocessing
from rmtkd_edge.tasks.reading.pictures import open_picture, read_picture

TASK = Task(name="toy", kind="image-classification", validation_fraction=0.25, test_fraction=0)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def file(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, kind, **options)
    return out.getvalue()


def folders(root: Path, content: bytes, ending: str = "png", count: int = 12) -> Path:
    for i in range(count):
        place = root / "train" / f"class-{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02d}.{ending}").write_bytes(content)
    return root


def loaded(data: Path, **keys: Any) -> Dataset[ImageSplit]:
    return image.TASK.load(recipe_of(Task.model_validate({**TASK.model_dump(), **keys})), data)


DEEP = {
    "16-bit PNG": file(GREY.astype(np.uint16) * 257),
    "16-bit TIFF": file(GREY.astype(np.uint16) * 257, "TIFF"),
    "16-bit PGM": file(GREY.astype(np.uint16) * 257, "PPM"),
    "32-bit TIFF": file((GREY.astype(np.float64) / 255 * (2**31 - 1)).astype(np.int32), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_scaled_by_their_depth_in_training_and_prediction(kind: str, tmp_path: Path) -> None:
    found = loaded(folders(tmp_path, DEEP[kind], "tif"))
    assert np.array_equal(found.train.images[0], np.repeat(GREY[..., None], 3, axis=-1))
    assert any("12 images hold more than 8 bits" in note for note in found.notes)
    assert np.array_equal(read_picture(Image.open(io.BytesIO(DEEP[kind])), 8), found.train.images[0])


def test_unsigned_32_bits_are_not_taken_for_negative_values() -> None:
    values = (GREY.astype(np.float64) / 255 * (2**32 - 1)).astype(np.uint32)
    signed = bytes.fromhex("5301030001000000")  # the tag SampleFormat with one short; 2 comes after it
    content = file(values.view(np.int32), "TIFF").replace(signed + b"\2", signed + b"\1")
    assert np.array_equal(np.asarray(open_picture(content).image)[..., 0], GREY)


@pytest.mark.parametrize(
    "content",
    [file(GREY.astype(np.float32) / 255, "TIFF"), file(GREY.astype(np.float32), "TIFF")],
    ids=["shares", "bytes"],
)
def test_float_images_need_a_range(content: bytes, tmp_path: Path) -> None:
    top = float(np.asarray(Image.open(io.BytesIO(content))).max())
    with pytest.raises(DataError, match=r"values are float: .*task\.pixel_range"):
        loaded(folders(tmp_path, content, "tif"))
    found = loaded(tmp_path, pixel_range=[0, top])
    assert found.train.images[0].max() == 255 and found.train.images[0].min() == 0
    found.preprocessing.save(tmp_path / "kept")
    kept = ImagePreprocessing.read(tmp_path / "kept")
    assert kept.pixel_range == (0, top)
    assert np.array_equal(read_picture(Image.open(io.BytesIO(content)), 8, kept.pixel_range), found.train.images[0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_images_that_would_be_black_ask_for_their_range(kind: str, tmp_path: Path) -> None:
    folders(tmp_path, file(GREY.astype(np.uint16) * 16, kind), "png")  # 12 bits in 16
    with pytest.raises(DataError, match=r"values up to 4032 of 65535.*nearly black") as caught:
        loaded(tmp_path)
    assert "task.pixel_range=[0,4032]" in caught.value.hint
    assert loaded(tmp_path, pixel_range=[0, 4032]).train.images.max() == 255


def test_negative_values_and_integers_of_unknown_depth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="values go from -5 to"):
        loaded(folders(tmp_path, file(GREY.astype(np.int32) - 5, "TIFF"), "tif"))
    with pytest.raises(DataError, match="integers of 32 bits"):
        read_picture(GREY.astype(np.int32), 8)
    with pytest.raises(DataError, match="not finite"):
        read_picture(np.full((8, 8), np.nan, np.float32), 8, (0, 1))


def drawing(mode: str) -> bytes:
    """Black on transparent ground: without its transparency all black."""
    shape = np.zeros((8, 8, 4), np.uint8)
    shape[2:5, 2:5, 3] = 255
    picture = Image.fromarray(shape)
    if mode == "P":
        palette = Image.fromarray((shape[..., 3] == 255).astype(np.uint8)).convert("P")
        palette.putpalette([0] * 6)
        return file(palette, transparency=0)
    if mode == "I;16":
        values = np.where(shape[..., 3] == 255, 40000, 7).astype(np.uint16)
        return file(values, transparency=7)
    return file(picture.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_transparent_parts_become_white_and_it_is_said(mode: str, tmp_path: Path) -> None:
    found = loaded(folders(tmp_path, drawing(mode)))
    ground, shape = found.train.images[0, 0, 0], found.train.images[0, 3, 3]
    assert ground.tolist() == [255] * 3 and (shape < 200).all()
    assert any("12 images have transparent parts, which became white" in note for note in found.notes)
    assert np.array_equal(read_picture(Image.open(io.BytesIO(drawing(mode))), 8), found.train.images[0])


def test_images_that_show_nothing_are_counted(tmp_path: Path) -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[..., :3] = COLOURS  # whatever is under it, it is transparent everywhere
    folders(tmp_path, file(clear))
    (tmp_path / "train/class-0/seen.png").write_bytes(file(COLOURS))
    assert any("12 images are of one colour" in note for note in loaded(tmp_path).notes)


def test_an_alpha_channel_without_transparent_parts_changes_nothing() -> None:
    opaque = open_picture(file(Image.fromarray(COLOURS).convert("RGBA")))
    assert np.array_equal(np.asarray(opaque.image), COLOURS) and not opaque.changes


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_images_are_turned_as_their_orientation_says(kind: str, tmp_path: Path) -> None:
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255  # the upper half is white; turned clockwise, the right one
    turned = Image.Exif()
    turned[0x0112] = 6
    found = loaded(folders(tmp_path, file(half, kind, exif=turned), "jpg"))
    assert found.train.images[0, :, 6:].min() > 200 and found.train.images[0, :, :2].max() < 50
    if kind != "TIFF":  # Pillow turns them as it loads them
        assert any("12 images were turned upright" in note for note in found.notes)
    path = next((tmp_path / "train/class-0").iterdir())
    assert np.array_equal(read_picture(path, 8), found.train.images[0])


def test_a_deep_image_keeps_its_orientation() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    values = np.zeros((8, 8), np.uint16)
    values[:4] = 65535
    pixels = np.asarray(open_picture(file(values, exif=turned)).image)
    assert pixels[:, 6:].min() == 255 and pixels[:, :2].max() == 0


def test_a_damaged_exif_does_not_stop_an_image() -> None:
    assert open_picture(file(COLOURS, "JPEG", exif=b"Exif\x00\x00no tiff header")).image.size == (8, 8)


def test_the_first_frame_is_read_and_it_is_said(tmp_path: Path) -> None:
    content = file(Image.fromarray(COLOURS), "TIFF", save_all=True, append_images=[Image.fromarray(255 - COLOURS)])
    found = loaded(folders(tmp_path, content, "tif"))
    assert np.array_equal(found.train.images[0], COLOURS)
    assert any("12 images hold several frames" in note for note in found.notes)


def test_a_summary_tells_sizes_modes_labels_and_the_first_rows(tmp_path: Path) -> None:
    folders(tmp_path, file(COLOURS))
    (tmp_path / "train/class-0/big.png").write_bytes(file(np.zeros((4, 16), np.uint8)))
    (tmp_path / "train/readme.txt").write_text("read me", encoding="utf-8")
    dataset = loaded(tmp_path, image_size=8, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    found = image.TASK.summary(dataset)
    assert found == from_json(DataSummary, to_json(found), "here") and found.notes == dataset.notes
    (source,) = found.sources
    assert (source.name, source.role, source.rows) == ("train/", "train", 13)
    assert source.sizes == {"8x8": 12, "16x4": 1} and source.modes == {"RGB": 12, "L": 1}
    assert "train/readme.txt" in found.not_used
    assert found.splits["train"].labels["class-0"] + found.splits["validation"].labels["class-0"] == 7
    first, shares = found.first_rows[0], dataset.train.images[0] / 255
    assert first.label == "class-0" and f"8x8 pixels of mean {shares.mean():.3f}" in first.seen
    assert f"normalised {2 * shares.mean() - 1:.3f} and {2 * shares.std():.3f}" in first.seen
    lines = describe(found)
    assert "read train/: 13 rows as train; sizes 8x8 (12), 16x4 (1); modes RGB (12), L (1)" in lines


@pytest.mark.parametrize("form", ["folders", "npz"])
def test_images_that_are_not_square_need_a_size(form: str, tmp_path: Path) -> None:
    wide = np.repeat(np.repeat(COLOURS, 4, axis=0), 6, axis=1)
    if form == "folders":
        folders(tmp_path, file(wide))
    else:
        np.savez(tmp_path / "train.npz", images=np.stack([wide] * 12), labels=np.arange(12) % 2)
    with pytest.raises(DataError, match=r"not square.*48x32") as caught:
        loaded(tmp_path)
    assert "--set task.image_size=48" in caught.value.hint
    found = loaded(tmp_path, image_size=16)
    found.preprocessing.save(tmp_path / "kept")
    assert found.train.images.shape[1:] == (16, 16, 3) and ImagePreprocessing.read(tmp_path / "kept").image_size == 16
    assert np.array_equal(read_picture(wide, 16), found.train.images[0])


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A TIFF file of one strip, with tags that Pillow never writes."""
    known = {"photometric": 262, "sample_format": 339}
    height, width = values.shape
    entries = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height}
    entries |= {279: values.nbytes, 339: 1} | {known[name]: value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4  # where the values begin
    listed = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, v) for tag, v in sorted(entries.items())
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + listed + struct.pack("<I", 0) + values.tobytes()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_turned(kind: Any) -> None:
    values = GREY.astype(kind) * (np.iinfo(kind).max // 255)
    plain, turned = (np.asarray(open_picture(tiff(values, photometric=p)).image)[..., 0] for p in (1, 0))
    assert np.array_equal(plain, GREY) and np.array_equal(turned, 255 - GREY)


def test_signed_values_of_8_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="signed integers of 8 bits"):
        open_picture(tiff(GREY.view(np.int8), sample_format=2))


def test_an_array_of_more_than_8_bits_needs_a_range_to_be_predicted() -> None:
    values = GREY.astype(np.uint16)  # 255 is white, and nothing says so
    with pytest.raises(DataError, match="array of uint16"):
        read_picture(values, 8)
    assert np.array_equal(read_picture(values, 8, (0, 255))[..., 0], GREY)


def test_what_is_no_image_is_told_without_python_s_names() -> None:
    with pytest.raises(ValueError, match="no image of a kind that Pillow reads"):
        open_picture(b"text")
