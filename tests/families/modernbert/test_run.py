"""From a few hundred rows to an exported folder: a ModernBERT from random weights learns, is cut, and is read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from test_pipeline import call

import rmtkd_edge
from rmtkd_edge.run.directory import Run

pytestmark = pytest.mark.slow

TEXTS = ["the film was great", "a dull and awful plot with some music", "great"]
SHAPE = {"layers": 3, "width": 32, "heads": 2, "ffn": 48, "max_positions": 32, "local_attention": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_dict: dict[str, Any], tiny_data: Path) -> Path:
    """A run that is compressed: training, two cycles with self-distillation, the words that no row uses left out."""
    folder = tmp_path_factory.mktemp("modernbert")
    recipe = {**tiny_recipe_dict, "model": {**tiny_recipe_dict["model"], "family": "modernbert", "shape": SHAPE}}
    recipe["compress"] = {**recipe["compress"], "vocabulary": 1}
    recipe["distil"] = {**recipe["distil"], "match": 0.5}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    from rmtkd_edge.cli import app

    for argv in (
        ("compress", folder / "recipe.toml", "--data", tiny_data, "--out", folder / "run"),
        ("export", folder / "run"),
    ):
        with pytest.raises(SystemExit) as left:
            app.main([str(part) for part in argv])
        assert left.value.code == 0
    return folder / "run"


def test_it_learns_and_is_cut(run: Path) -> None:
    record = json.loads((run / "compress/result.json").read_text())
    teacher, student = (record[name]["validation"]["values"]["accuracy"] for name in ("teacher", "student"))
    assert teacher > 0.85 and student > teacher - 0.1, "the most frequent label is half of the rows"
    assert record["student"]["parameters"] < 0.4 * record["teacher"]["parameters"]
    assert any("rotary positions" in note for note in record["notes"])
    Run.open(run).verify()


def test_the_exported_folder_answers_alike_in_every_way(run: Path) -> None:
    fp32, int8, torch_outputs = (
        rmtkd_edge.load(run, **how).predict(TEXTS).outputs for how in ({}, {"precision": "int8"}, {"backend": "torch"})
    )
    np.testing.assert_allclose(fp32, torch_outputs, rtol=1e-3, atol=1e-4)
    assert np.abs(int8 - fp32).max() < 0.2 * np.abs(fp32).max()


def test_transformers_rebuilds_what_was_not_cut(run: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = run / "baseline"
    assert json.loads((folder / "config.json").read_text())["rmtkd"]["transformers"]
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
    wanted = rmtkd_edge.load(folder, backend="torch").predict(TEXTS).outputs
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_folder_is_the_source_of_another_run(
    run: Path, tmp_path: Path, tiny_recipe_dict: dict[str, Any], tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**tiny_recipe_dict, "compress": {**tiny_recipe_dict["compress"], "one_shot": True}}
    recipe["model"] = {"family": "modernbert", "source": str(run / "export"), "tokenizer": str(run / "export")}
    recipe["stop"] = {"target_reduction": 0.2, "max_drop": 1.0}
    (tmp_path / "again.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    code, out, _ = call(capsys, "compress", tmp_path / "again.toml", "--data", tiny_data, "--out", tmp_path / "again")
    assert code == 0 and "fewer" in out


@pytest.mark.parametrize("kind", ["layers", "static"])
def test_other_options_go_with_it(
    kind: str, tmp_path: Path, tiny_recipe_dict: dict[str, Any], tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**tiny_recipe_dict, "model": {**tiny_recipe_dict["model"], "family": "modernbert", "shape": SHAPE}}
    recipe["stop"] = {"target_reduction": 0.3, "max_drop": 1.0}
    if kind == "layers":
        recipe["compress"] = {**recipe["compress"], "layers": 2}
    else:
        recipe["compress"] = {**recipe["compress"], "one_shot": True}
        recipe["export"] = {"int8_scales": "static", "graph": "portable", "max_drop": 1.0}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    out = tmp_path / "run"
    assert call(capsys, "compress", tmp_path / "r.toml", "--data", tiny_data, "--out", out)[0] == 0
    assert call(capsys, "export", out)[0] == 0
    result = json.loads((out / "export/rmtkd.json").read_text())
    assert result["family"] == "modernbert" and not result["variants"]["int8"]["refused"]
