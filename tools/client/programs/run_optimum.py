"""Run an exported folder with Optimum: `python run_optimum.py JOB ANSWER`, two JSON files (see running.py)."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optimum import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

CLASSES = {
    "text": (onnxruntime.ORTModelForSequenceClassification, AutoTokenizer),
    "image": (onnxruntime.ORTModelForImageClassification, AutoImageProcessor),
}


def prepared(preprocessing: Any, modality: str, items: list[Any]) -> Any:
    """Return the model's inputs for texts, pairs of texts, or paths of pictures."""
    if modality == "image":
        return preprocessing([Image.open(path).convert("RGB") for path in items], return_tensors="pt")
    columns = [items] if isinstance(items[0], str) else [list(column) for column in zip(*items, strict=True)]
    return preprocessing(*columns, padding=True, truncation=True, return_tensors="pt")


def main() -> None:
    """Answer a job."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    kind, read = CLASSES[job["modality"]]
    preprocessing = read.from_pretrained(job["folder"])
    folder, _, name = job["file"].rpartition("/")
    model = kind.from_pretrained(job["folder"], subfolder=folder, file_name=name)
    outputs = [model(**prepared(preprocessing, job["modality"], items)).logits.tolist() for items in job["items"]]
    labels = [model.config.id2label[i] for i in range(len(model.config.id2label))]
    versions = {name: version(name) for name in ("optimum-onnx", "transformers", "onnxruntime")}
    answer = {"outputs": outputs, "labels": labels, "versions": versions}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
