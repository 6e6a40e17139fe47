"""Runs whose compress stage is done, one of text and one of images, with data; nothing is downloaded."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from families.encoder.sample import LABELS, UNEVEN, WORDS, make_encoder, make_spec, project
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.export.options import ExportOptions
from rmtkd_edge.families.base import family_of
from rmtkd_edge.families.store import save_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks.reading.images import ImagePreprocessing

ROWS = {"train": 24, "validation": 24, "test": 12}


def sample_of(family: str) -> ModuleType:
    """Return the module with a family's sample: `make_model(seed)` with projections, `make_batches(model, n)`."""
    return importlib.import_module(f"families.{family}.sample")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows the words w0 to w55."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def text_rows(split: str, pairs: bool) -> list[tuple[str, ...]]:
    """Return rows of one or two texts and a label, every label among them."""
    rng = np.random.default_rng(list(ROWS).index(split))
    texts = [
        [" ".join(rng.choice(WORDS[4:], rng.integers(1, 9))) for _ in range(1 + pairs)] for _ in range(ROWS[split])
    ]
    return [(*row, LABELS[i % len(LABELS)]) for i, row in enumerate(texts)]


def image_rows(split: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (n, side, side, 3) and labels 0 and 1 (n,)."""
    rng = np.random.default_rng(list(ROWS).index(split))
    return rng.integers(0, 256, (ROWS[split], side, side, 3), dtype=np.uint8), np.arange(ROWS[split]) % 2


def make_text_run(path: Path, *, pairs: bool = True, **sections: Any) -> ExportOptions:
    """Return the options to export a run of an encoder: a teacher, and a compressed model with its projections."""
    columns, data = ["a", "b"] if pairs else ["a"], path.parent / f"{path.name}-data"
    data.mkdir()
    for split in ROWS:
        with open(data / f"{split}.csv", "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([[*columns, "label"], *text_rows(split, pairs)])
    task = {"name": "toy", "text": columns, "max_length": 24, **sections.pop("task", {})}
    run = _run(path, data, {"model": {"source": "scratch"}, "task": task, **sections})
    wide = make_spec()
    save_model(run, layout.TEACHER, make_encoder(wide))
    save_model(run, layout.BEST, project(make_encoder(wide.with_ranks(UNEVEN), 1), wide))
    make_tokenizer().save_pretrained(run.path_of(layout.PREPROCESSING))
    return _compressed(run, data)


def make_image_run(path: Path, **sections: Any) -> ExportOptions:
    """Return the options to export a run of a ResNet."""
    net, data = sample_of("resnet").make_model(0), path.parent / f"{path.name}-data"
    data.mkdir()
    for split in ROWS:
        images, labels = image_rows(split, net.spec.image_size)
        np.savez(data / f"{split}.npz", images=images, labels=labels)
    task = {"name": "noise", "kind": "image-classification", "labels": list(net.spec.labels)}
    run = _run(path, data, {"model": {"family": "resnet", "source": "scratch"}, "task": task, **sections})
    family, wide = family_of(net), net.spec.with_projections({}).with_ranks(net.spec.raw)
    save_model(run, layout.TEACHER, family.initialise(family.build(wide), 0).eval())
    save_model(run, layout.BEST, net)
    ImagePreprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), net.spec.image_size).save(run.path_of(layout.PREPROCESSING))
    return _compressed(run, data)


def _run(path: Path, data: Path, recipe: dict[str, Any]) -> Run:
    export = {"verify_rows": 8, "max_drop": 1.0, **recipe.pop("export", {})}
    return Run.create(path, parse_recipe({**recipe, "export": export}, "recipe").to_toml(), 0)


def _compressed(run: Run, data: Path) -> ExportOptions:
    run.record(layout.PREPROCESSING)
    run.mark("compress", "done", data=str(data))
    return ExportOptions(run=run.path, threads=1)
