"""Load an exported folder, or a run, and classify with it, by onnxruntime or by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.export.bundle import AGAIN, EXPORT_SCHEMA, FACTS, WEIGHTS, check_file, read_model, read_spec
from rmtkd_edge.export.fold_proof import run_torch
from rmtkd_edge.sessions import CPU, open_session, run_session
from rmtkd_edge.families.resnet.spec import ConvNetSpec
from rmtkd_edge.families.ops import ModelSpec
from rmtkd_edge.families.store import read_json
from rmtkd_edge.tasks import text_classification as text
from rmtkd_edge.tasks.image_classification import ImageSplit, batches
from rmtkd_edge.tasks.reading.images import read_picture

READ_BY_TOKENIZERS = (".json", ".txt", ".model", ".jinja")

Texts = Sequence[str] | Sequence[tuple[str, str]]
Picture = Any  # a path, a PIL image or an array


@dataclass(frozen=True)
class Prediction:
    """Logits float32 (n, labels) and the name of the largest one of each row."""

    logits: np.ndarray
    labels: list[str]


class _Classifier:
    """A classifier of an exported folder; `session` is set for the backend `onnx`, `model` for `torch`."""

    def __init__(self, folder: Path, facts: dict[str, Any], spec: ModelSpec, model: Any, session: Any) -> None:
        self.folder, self.facts, self.spec = folder, facts, spec
        self.labels = list(spec.labels)
        self.model, self.session = model, session

    def _run(self, batch: dict[str, torch.Tensor]) -> np.ndarray:
        if self.model is None:
            return run_session(self.session, batch)
        with torch.no_grad():
            return run_torch(self.model, batch).numpy()

    def _prediction(self, parts: list[np.ndarray]) -> Prediction:
        logits = np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)
        return Prediction(logits, [self.labels[i] for i in logits.argmax(1)])


class Classifier(_Classifier):
    """A text classifier."""

    def __init__(self, folder: Path, facts: dict[str, Any], spec: ModelSpec, model: Any, session: Any) -> None:
        from transformers import AutoTokenizer

        super().__init__(folder, facts, spec, model, session)
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def predict(self, texts: Texts, batch_size: int = 32) -> Prediction:
        """Classify texts or pairs of texts; an empty list gives logits (0, labels)."""
        if isinstance(texts, str):
            raise UserError("predict takes a list of texts", "predict([text])")
        return self._prediction(
            [self._logits(list(texts[i : i + batch_size])) for i in range(0, len(texts), batch_size)]
        )

    def _logits(self, texts: list[Any]) -> np.ndarray:
        columns = [list(column) for column in zip(*texts, strict=True)] if isinstance(texts[0], tuple) else [texts]
        ids, types = text.encode(self.tokenizer, columns, self.facts["max_length"])
        if not all(ids):
            raise UserError(f"text {[bool(row) for row in ids].index(False)} has no tokens", "leave empty texts out")
        return self._run(text.padded(ids, types, self.tokenizer.pad_token_id))


class ImageClassifier(_Classifier):
    """An image classifier."""

    def predict(self, images: Sequence[Picture], batch_size: int = 32) -> Prediction:
        """Classify images: file paths, PIL images or uint8 arrays (H, W) or (H, W, 3), resized to the model's size."""
        assert isinstance(self.spec, ConvNetSpec)
        if isinstance(images, (str, Path)):
            raise UserError("predict takes a list of images", "predict([image])")
        size, parts = self.spec.image_size, []
        for start in range(0, len(images), batch_size):
            pixels = np.stack([read_picture(item, size) for item in images[start : start + batch_size]])
            split = ImageSplit(pixels, np.zeros(len(pixels), np.int64))
            batch = next(batches(split, len(pixels), self.spec.mean, self.spec.std, None))
            parts.append(self._run({"pixel_values": batch["pixel_values"]}))
        return self._prediction(parts)


def load(
    path: Path | str,
    *,
    backend: Literal["onnx", "torch"] = "onnx",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    provider: str = CPU,
    threads: int = 1,
) -> Classifier | ImageClassifier:
    """Return the classifier of an exported folder, or of a run's export/; the sha256 of every file it needs is checked.

    Raises RunDirError naming a file that is missing, altered or not listed, UserError for a precision that is not there
    (int8 that was refused says why) or an option that torch has no use for, ProviderError where another provider would
    be taken.
    """
    folder = exported_folder(Path(path))
    facts = read_json(folder / FACTS, AGAIN)
    if facts.get("schema") != EXPORT_SCHEMA:
        raise RunDirError(
            f"{folder / FACTS}: schema is {facts.get('schema')!r}, this version reads {EXPORT_SCHEMA!r}", AGAIN
        )
    sized = "max_length" in facts or "image_size" in facts
    if not (isinstance(facts.get("files"), dict) and isinstance(facts.get("variants"), dict) and sized):
        raise RunDirError(f"{folder / FACTS} lacks files, variants or max_length", AGAIN)
    files = facts["files"]
    for name in files:
        if not name.startswith("onnx/") and name != WEIGHTS:
            check_file(folder, name, files)
    odd = [p.name for p in folder.iterdir() if p.suffix in READ_BY_TOKENIZERS and p.name not in {*files, FACTS}]
    if odd:  # a tokenizer would read a file that nobody has checked
        raise RunDirError(f"{folder} holds {', '.join(sorted(odd))}, which {FACTS} does not list", "remove it")
    spec = read_spec(folder)
    kind = ImageClassifier if isinstance(spec, ConvNetSpec) else Classifier
    if backend == "torch":
        if precision != "fp32":
            raise UserError(f"the backend torch runs fp32, not {precision}", "backend='onnx'")
        if provider != CPU or threads != 1:
            raise UserError(
                "provider and threads are onnxruntime's",
                "for torch: load(...).model.to(device), torch.set_num_threads(n)",
            )
        return kind(folder, facts, spec, read_model(folder, files.get(WEIGHTS)), None)
    if backend != "onnx":
        raise UserError(f"there is no backend {backend!r}", "backend='onnx' or backend='torch'")
    variant = _variant(folder, facts, precision)
    for name in {variant["file"], *variant["files"]}:
        check_file(folder, name, files)
    return kind(folder, facts, spec, None, open_session(folder / variant["file"], threads=threads, provider=provider))


def exported_folder(path: Path) -> Path:
    """Return the exported folder that a path names: itself, or export/ of a run."""
    for folder in (path, path / "export"):
        if (folder / FACTS).is_file():
            return folder
    raise RunDirError(f"{path} holds no exported model (no {FACTS})", f"rmtkd-edge export {path}")


def _variant(folder: Path, facts: dict[str, Any], precision: str) -> dict[str, Any]:
    variant = facts["variants"].get(precision)
    if variant is not None and not {"file", "files"} <= set(variant):
        raise RunDirError(f"{folder / FACTS} names no files of {precision}", AGAIN)
    if variant is None:
        raise UserError(
            f"{folder} has no {precision} variant (it has {', '.join(facts['variants'])})",
            f"rmtkd-edge export RUN --force{' --fp16' if precision == 'fp16' else ''}",
        )
    if variant.get("refused"):
        raise UserError(
            f"{precision} was refused at export: {variant['refused']}",
            "load precision='fp32', or raise export.max_accuracy_drop",
        )
    return variant
