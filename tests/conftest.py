"""Fixtures for whole-pipeline tests: a small vocabulary, small data whose label can be learnt, a small recipe."""

from __future__ import annotations

import os

import numpy as np
import pytest
from sentences_sample import BAD, GOOD, PLAIN, sentences, write_csv

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # `pytest -n`: workers share the cores
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // int(workers)))


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    """The folder of a WordPiece tokenizer that knows the words above."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PLAIN, *GOOD, *BAD]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A folder with train.csv (600 rows) and validation.csv (150 rows)."""
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder / "train.csv", sentences(600, 0))
    write_csv(folder / "validation.csv", sentences(150, 1))
    return folder


@pytest.fixture(scope="session")
def tiny_recipe_dict(tiny_tokenizer):
    """A recipe (plain dict) that trains, compresses and distils in seconds."""
    return {
        "title": "tiny",
        "model": {
            "source": "scratch",
            "tokenizer": str(tiny_tokenizer),
            "shape": {"layers": 2, "width": 32, "heads": 2, "ffn": 64, "max_positions": 32, "dropout": 0.0},
        },
        "task": {"name": "tiny", "text": ["text"], "max_length": 24},
        "train": {"epochs": 3, "learning_rate": 3e-3, "batch_size": 32},
        "analyse": {"minimum_rows": 400, "weighting_rows": 128},
        "compress": {"sites_per_cycle": 4, "rounds": 1, "warm_start_tokens": 2500, "align": False, "minimum_rank": 2},
        "distil": {"steps": 20, "learning_rate": 2e-3, "evaluate_every": 10},
        "stop": {"target_reduction": 0.75, "max_drop": 0.1},
        "export": {"max_drop": 0.1},
    }


@pytest.fixture
def tiny_recipe_file(tiny_recipe_dict, tmp_path):
    """The tiny recipe as a file."""
    import tomli_w

    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_recipe_dict), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory):
    """A folder with handwritten digits of 8 x 8 pixels: train.npz (600), validation.npz (150), test.npz (150)."""
    from sklearn.datasets import load_digits

    folder, digits = tmp_path_factory.mktemp("images"), load_digits()
    images = np.repeat((digits.images * 15.9).astype(np.uint8)[..., None], 3, axis=-1)
    for split, rows in (("train", slice(0, 600)), ("validation", slice(600, 750)), ("test", slice(750, 900))):
        np.savez(folder / f"{split}.npz", images=images[rows], labels=digits.target[rows])
    return folder
