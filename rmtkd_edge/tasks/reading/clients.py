"""What other libraries make of raw rows by the files of an exported folder, against what training fed the model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmtkd_edge.errors import Finding
from rmtkd_edge.tasks.base import Sample

SAMPLES = 4  # rows that are compared, besides one of every kind
SHOWN = 60  # characters of a text in a message
PLAIN = ("RGB", "L", "1")  # modes that every client reads alike
BUG = "report this as a bug, with the folder's files but the model; other clients would answer wrongly"
LARGEST_STEP = 2.0  # of 255: resizing rounds otherwise from library to library


def compare_texts(
    folder: Path, samples: Sequence[Sample], wanted: Mapping[str, np.ndarray], names: Sequence[str]
) -> None:
    """Raise Finding where the tokenizer of an exported folder makes other inputs of texts than training was fed.

    Args:
        samples: their items are tuples of one or two texts.
        wanted: int64 (rows, T) by input, right-padded, a row a sample.
        names: of the inputs that the model reads.
    """
    from transformers import AutoTokenizer

    columns = [list(column) for column in zip(*(sample.item for sample in samples), strict=True)]
    found = AutoTokenizer.from_pretrained(folder)(*columns, truncation=True, padding=True, return_tensors="np")
    for name in names:
        if name not in found:
            raise _texts_differ(f"the exported tokenizer gives no `{name}`, which the model reads")
        for sample, theirs, ours in zip(samples, found[name], wanted[name], strict=True):
            if theirs.shape != ours.shape:
                raise _texts_differ(
                    f"the exported tokenizer pads or cuts rows to {len(theirs)} tokens, training to {len(ours)}"
                )
            if (differs := np.flatnonzero(theirs != ours)).size:
                at = differs[0]
                raise _texts_differ(
                    f"`{name}` of validation row {sample.row} ({' | '.join(sample.item)[:SHOWN]!r}) differ at "
                    f"{len(differs)} of {len(ours)} tokens, first at token {at}: the exported tokenizer gives "
                    f"{theirs[at]}, training was fed {ours[at]}"
                )


def _texts_differ(what: str) -> Finding:
    return Finding(what, BUG)


def compare_pictures(
    folder: Path, samples: Sequence[Sample], wanted: np.ndarray, std: Sequence[float]
) -> tuple[str, ...]:
    """Return notes on pictures of which transformers, by preprocessor_config.json, makes other inputs than training.

    These are transparent ones and those of more than 8 bits, which no key of that file describes.

    Args:
        samples: their items are encoded files or arrays.
        wanted: float32 (rows, 3, H, W), a row a sample.
        std: per channel, by which pixels as shares of 255 were divided.

    Raises:
        Finding: a plain picture differs.
    """
    from transformers import AutoImageProcessor
    from transformers.image_utils import load_image

    processor = AutoImageProcessor.from_pretrained(folder)
    step, notes = np.asarray(std, np.float32)[:, None, None] * 255, []
    for sample, ours in zip(samples, wanted, strict=True):
        picture = _opened(sample.item)
        told = f"validation row {sample.row} ({sample.name}, mode {picture.mode}, {picture.width}x{picture.height})"
        theirs = np.asarray(processor(load_image(picture), return_tensors="pt")["pixel_values"][0])
        if theirs.shape != ours.shape:
            raise Finding(f"{told} becomes {theirs.shape} in other clients, training was fed {ours.shape}", BUG)
        difference = np.abs(theirs - ours) * step
        if difference.max() <= LARGEST_STEP:
            continue
        far = f"by up to {difference.max():.0f} of 255 (mean {difference.mean():.1f})"
        if picture.mode in PLAIN:
            raise Finding(f"{told}: what other clients make of it differs {far} from what training was fed", BUG)
        notes.append(
            f"clients that follow preprocessor_config.json read pictures such as {told} otherwise than training, "
            f"{far}: feed them opaque RGB of 8 bits"
        )
    return tuple(notes)


def _opened(item: Any) -> Image.Image:
    if not isinstance(item, np.ndarray):
        return Image.open(io.BytesIO(item))
    return Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[-1] == 1 else item)
