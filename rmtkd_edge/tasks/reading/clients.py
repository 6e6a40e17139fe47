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
LARGEST_STEP = 2.0  # of 255: resizing rounds otherwise from library to library


def check_texts(
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
    return Finding(what, "report this as a bug, with the tokenizer's files; other clients would answer wrongly")


def check_pictures(folder: Path, samples: Sequence[Sample], wanted: np.ndarray, std: Sequence[float]) -> None:
    """Raise Finding where transformers, by preprocessor_config.json, makes other inputs of pictures than training.

    Args:
        samples: their items are encoded files or arrays.
        wanted: float32 (rows, 3, H, W), a row a sample.
        std: per channel, by which pixels as shares of 255 were divided.
    """
    from transformers import AutoImageProcessor
    from transformers.image_utils import load_image

    processor = AutoImageProcessor.from_pretrained(folder)
    step = np.asarray(std, np.float32)[:, None, None] * 255
    for sample, ours in zip(samples, wanted, strict=True):
        picture = _opened(sample.item)
        theirs = np.asarray(processor(load_image(picture), return_tensors="pt")["pixel_values"][0])
        if theirs.shape != ours.shape:
            raise _pictures_differ(sample, picture, f"becomes {theirs.shape}, training was fed {ours.shape}")
        difference = np.abs(theirs - ours) * step
        if not difference.max() <= LARGEST_STEP:
            told = f"differs by up to {difference.max():.0f} of 255 (mean {difference.mean():.1f})"
            raise _pictures_differ(sample, picture, f"{told} from what training was fed")


def _opened(item: Any) -> Image.Image:
    if not isinstance(item, np.ndarray):
        return Image.open(io.BytesIO(item))
    return Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[-1] == 1 else item)


def _pictures_differ(sample: Sample, picture: Image.Image, what: str) -> Finding:
    return Finding(
        f"validation row {sample.row} ({sample.name}, mode {picture.mode}, {picture.width}x{picture.height}) {what}: "
        "other clients would answer wrongly",
        "no client can be told to do this: save the pictures as opaque RGB of 8 bits, which changes no row, and export "
        "again with --data FOLDER; feed clients such pictures",
    )
