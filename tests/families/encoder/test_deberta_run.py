"""From a few hundred rows to an exported folder: a DeBERTa from random weights, with a Unigram tokenizer as in v3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from sentences_sample import BAD, GOOD, PLAIN
from test_pipeline import call
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DebertaV2Tokenizer

import rmtkd_edge

pytestmark = pytest.mark.slow

TEXTS = ["the film was great", "a dull and awful plot with some music", "great"]
UNUSED = ["quarterly", "earnings", "football", "results"]
SHAPE = {"model_type": "deberta-v2", "layers": 3, "width": 32, "heads": 2, "ffn": 64, "max_positions": 32}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unigram")
    words = [*PLAIN, *GOOD, *BAD, *UNUSED]
    letters = sorted({letter for word in words for letter in word})
    special = [(token, 0.0) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    pieces = [*((f"▁{word}", -3.0) for word in words), *((letter, -9.0) for letter in ("▁", *letters))]
    DebertaV2Tokenizer(vocab=[*special, *pieces]).save_pretrained(folder)
    return folder


def test_it_is_cut_exported_and_read_by_transformers(
    tokenizer: Path,
    tiny_recipe_dict: dict[str, Any],
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = {"source": "scratch", "tokenizer": str(tokenizer), "shape": {**SHAPE, "dropout": 0.0}}
    compress = {**tiny_recipe_dict["compress"], "vocabulary": 1, "layers": 2}
    recipe = {**tiny_recipe_dict, "model": model, "compress": compress, "export": {"max_drop": 1.0}}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    run = tmp_path / "run"
    for words in (("compress", tmp_path / "r.toml", "--data", tiny_data, "--out", run), ("export", run)):
        code, out, err = call(capsys, *words)
        assert code == 0, out + err

    record = json.loads((run / "compress/result.json").read_text())
    teacher, student = (record[name]["validation"]["values"]["accuracy"] for name in ("teacher", "student"))
    assert teacher > 0.85 and student > teacher - 0.1, "the most frequent label is half of the rows"
    assert record["student"]["parameters"] < 0.4 * record["teacher"]["parameters"]

    fp32, int8, outputs = (
        rmtkd_edge.load(run, **how).predict(TEXTS).outputs for how in ({}, {"precision": "int8"}, {"backend": "torch"})
    )
    np.testing.assert_allclose(fp32, outputs, rtol=1e-3, atol=1e-4)
    assert np.abs(int8 - fp32).max() < 0.2 * np.abs(fp32).max()
    tokens = AutoTokenizer.from_pretrained(run / "export").get_vocab()
    assert "▁film" in tokens and not any(f"▁{word}" in tokens for word in UNUSED)

    folder = run / "baseline"
    assert json.loads((folder / "config.json").read_text())["rmtkd"]["transformers"]
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits
    wanted = rmtkd_edge.load(folder, backend="torch").predict(TEXTS).outputs
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
