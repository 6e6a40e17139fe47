"""The Python of README.md and docs/python-api.md runs as it stands, but for budgets that a tiny model cannot keep."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from api.own_sample import Own, accuracy

import rmtkd_edge as rk

ROOT = Path(__file__).resolve().parents[2]
SMALLER = {
    "reduction=0.8, align=8": "reduction=0.3, align=2",
    "steps=500": "steps=3",
    "quick=True": "quick=True, min_runs=5, min_duration_s=0.0, batch_sizes=[1], lengths=[8]",
}


@pytest.mark.parametrize("page", ["README.md", "docs/python-api.md"])
def test_the_chain_of_a_page_runs(page: str, bert: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = [found for found in re.findall(r"```python\n(.*?)```", text, re.S) if "rk.analyse" in found]
    for usual, smaller in SMALLER.items():
        block = block.replace(usual, smaller)
    given: dict[str, Any] = {
        "hf_model": bert.module,
        "calibration_loader": bert.batches,
        "train_loader": bert.batches[:4],
        "evaluate": lambda model: accuracy(model, bert.batches[-4:]),
        "tok": bert.extra["tokenizer"],
    }
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), given)
    assert given["plan"].reduction >= 0.3 and given["student"].spec == given["plan"].after
    assert (tmp_path / "out/onnx/model_quantized.onnx").is_file() and len(given["result"].records[0].results) >= 2
    assert given["rk"].load("out").predict(["a fine film"]).labels


def test_the_table_names_every_verb_and_options_that_are_there() -> None:
    text = (ROOT / "docs/python-api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `rk\.(\w+)\((.*?)\)` \|[^|]*\|(.*)\|$", text, re.M)
    assert {name for name, _, _ in rows} == {name for name in rk.__all__ if name[0].islower()}
    for name, arguments, notes in rows:
        known = inspect.signature(getattr(rk, name)).parameters
        own_notes = re.sub(r"\w+\(.*?\)", "", notes)  # without options of what is passed
        named = {*re.findall(r"(\w+)=", arguments), *re.findall(r"`(\w+)=", own_notes)}
        assert named <= {*known}, name
