"""One image as RGB: how deep values, transparency, orientation and several frames become the pixels of a model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rmtkd_edge.errors import DataError

# The one filter that makes a large picture small alike in Pillow, transformers and transformers.js, whose other filters
# look at a few pixels alone. No filter makes a small picture large alike (docs/devices.md).
RESAMPLE = Image.Resampling.LANCZOS
BACKGROUND = (255, 255, 255)  # white, as browsers and most viewers show what is transparent
ORIENTATION = 0x0112  # Exif tag
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2  # values of the second, and of the third
WHOLE_32_BITS = 2**32 - 1

UPRIGHT = "were turned upright, as their Exif orientation says"
COMPOSITED = "have transparent parts, which became white"
SCALED = "hold more than 8 bits a pixel and were scaled to 8"
FIRST_FRAME = "hold several frames, of which the first is read"

ASK = "say which become black and white, such as --set task.pixel_range=[0,1]"

Range = tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """An upright image of the mode RGB.

    Attributes:
        mode: Pillow's, of the file.
        changes: what was done to it, of the constants above.
        largest: of deep images, where nobody said their range, the largest value.
        limit: of them, the value that became white.
    """

    image: Image.Image
    mode: str
    changes: tuple[str, ...] = ()
    largest: float | None = None
    limit: float | None = None


def open_picture(found: bytes | np.ndarray | Image.Image, pixel_range: Range | None = None) -> Picture:
    """Return an image as RGB of 8 bits.

    Args:
        found: an encoded file, an array (H, W) or (H, W, channels), or a Pillow image.
        pixel_range: values of deep images (16 or 32 bits, float) that become black and white; those of their bit depth
            when left out.

    Raises:
        ValueError: for float or signed values without a range, and for values that are not finite.
        Exception: whatever Pillow's decoders raise for a damaged file.
    """
    image = _load(found)
    mode, changes = image.mode, []
    if getattr(image, "is_animated", False):
        changes.append(FIRST_FRAME)
    largest: float | None = None
    limit: float | None = None
    if mode == "F" or mode.startswith("I"):
        image, largest, limit = _shallow(image, pixel_range)
        changes.append(SCALED)
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):
        image = ImageOps.exif_transpose(image)
        changes.append(UPRIGHT)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            changes.append(COMPOSITED)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return Picture(image.convert("RGB"), mode, tuple(changes), largest, limit)


def read_picture(
    found: Any, side: int, pixel_range: Range | None = None, resample: Image.Resampling = RESAMPLE
) -> np.ndarray:
    """Return one image (a path, a PIL image, an array) as RGB uint8 (side, side, 3); raise DataError otherwise.

    An array of more than 8 bits says nothing of the bits that are used, so that it needs a range.
    """
    if isinstance(found, np.ndarray) and found.dtype == np.uint16 and pixel_range is None:
        raise DataError(f"an image is an array of {found.dtype}", "give uint8, with 255 for white")
    try:
        opened = open_picture(Path(found).read_bytes() if isinstance(found, (str, Path)) else found, pixel_range)
        return np.asarray(resized(opened.image, side, resample))
    except Exception as err:  # Pillow's decoders raise nearly everything for damaged files
        raise DataError(
            f"an image cannot be read: {str(err) or type(err).__name__}", "give a path, a PIL image or a uint8 array"
        ) from err


def resized(image: Image.Image, side: int, resample: Image.Resampling = RESAMPLE) -> Image.Image:
    """Return the image with `side` pixels a side."""
    return image if image.size == (side, side) else image.resize((side, side), resample)


def _load(found: bytes | np.ndarray | Image.Image) -> Image.Image:
    if isinstance(found, np.ndarray):
        return Image.fromarray(found[..., 0] if found.ndim == 3 and found.shape[-1] == 1 else found)
    if not isinstance(found, (bytes, Image.Image)):
        raise TypeError(f"a {type(found).__name__} is no image")
    try:
        image = found if isinstance(found, Image.Image) else Image.open(io.BytesIO(found))
    except UnidentifiedImageError as err:
        raise ValueError("it is no image of a kind that Pillow reads") from err
    image.load()
    if image.mode == "L" and SIGNED in _tags(image).get(SAMPLE_FORMAT, ()):  # which Pillow reads as unsigned ones
        raise ValueError("its values are signed integers of 8 bits: save it with unsigned ones")
    return image


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF file, none for others."""
    found: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return found


def _transparent_value(image: Image.Image) -> int | None:
    """Return the grey value that a deep PNG declares transparent."""
    value = image.info.get("transparency") if image.mode.startswith("I") else None
    return value if isinstance(value, int) else None


def _shallow(image: Image.Image, pixel_range: Range | None) -> tuple[Image.Image, float | None, float | None]:
    """Return a deep image in 8 bits and, where no range is given, its largest value and the one that became white."""
    values, depth = np.asarray(image).astype(np.float64), _depth(image)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    if depth == WHOLE_32_BITS:  # which Pillow reads as signed ones
        values = np.where(values < 0, values + 2**32, values)
    if pixel_range is None and depth is None:
        raise ValueError(f"its values are {'float' if image.mode == 'F' else 'integers of 32 bits'}: {ASK}")
    if pixel_range is None and values.min() < 0:
        raise ValueError(f"its values go from {values.min():g} to {values.max():g}: {ASK}")
    low, high = pixel_range or (0.0, depth or 1.0)
    shares = ((values - low) / (high - low)).clip(0, 1)
    if _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns images of 8 bits alone
        shares = 1 - shares
    grey = Image.fromarray(np.rint(shares * 255).astype(np.uint8))
    if (clear := _transparent_value(image)) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    exif = image.getexif()
    if exif.get(ORIENTATION):
        grey.getexif()[ORIENTATION] = exif[ORIENTATION]
    return (grey, None, None) if pixel_range else (grey, float(values.max()), float(high))


def _depth(image: Image.Image) -> int | None:
    """Return the largest value that the bits of a deep image can hold, None where nothing says it."""
    tags = _tags(image)
    if image.mode == "F" or (image.mode == "I" and not tags and image.format not in ("PNG", "PPM")):
        return None
    if not tags:
        return 2**16 - 1
    signed = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] != UNSIGNED
    return int(2 ** (tags.get(BITS_PER_SAMPLE, (16,))[0] - signed) - 1)
