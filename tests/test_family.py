"""A size family from one command to one page, through the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import call

import rmtkd_edge
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import model_of


@pytest.mark.slow
def test_a_family_is_exported_measured_and_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path, tiny_data: Path
) -> None:
    path = tmp_path / "a"
    compress = ("compress", tiny_recipe_file, "--out", path, "--data", tiny_data, "--one-shot", "--set")
    code, out, err = call(capsys, *compress, "stop.max_drop=1.0", "--targets", "0.4,0.7")
    assert code == 0 and out.count(" fewer), ") == 2 and "target 0.7" in err

    code, out, _ = call(capsys, "export", path)
    assert code == 0 and "students/0.4/onnx/model_quantized.onnx" in out and "export/onnx/model.onnx" in out
    effort = ("--quick", "--iterations", "10", "--duration", "0", "--seq-len", "16", "--batch-size", "1")
    code, out, _ = call(capsys, "profile", path, *effort, "--json")
    measured = json.loads(out)
    names = {model_of(result["label"]) for result in measured["results"]}
    assert code == 0 and names == {"original", "rmt-kd 0.4", "rmt-kd"}
    pairs = {(pair["candidate"], pair["baseline"]) for pair in measured["comparisons"]}
    assert ("rmt-kd 0.4 int8", "rmt-kd 0.4 fp32") in pairs and ("rmt-kd 0.4 int8", "rmt-kd fp32") not in pairs
    assert ("rmt-kd 0.4 fp32", "original fp32") in pairs

    code, out, _ = call(capsys, "report", path)
    page = Path(out.splitlines()[0]).read_text(encoding="utf-8")
    assert code == 0 and "rmt-kd 0.4 int8" in page and "Size against quality" in page
    code, _, _ = call(capsys, "doctor", path)
    assert code == 0
    Run.open(path).verify()

    texts, student = ["the film was great", "a dull and awful plot"], path / "students" / "0.4"
    fp32, int8 = (rmtkd_edge.load(student, precision=name).predict(texts).outputs for name in ("fp32", "int8"))
    torch = rmtkd_edge.load(student, backend="torch").predict(texts).outputs
    np.testing.assert_allclose(fp32, torch, rtol=1e-3, atol=1e-4)
    assert int8.shape == fp32.shape
    (path / "students" / "0.4" / "config.json").write_text("{}")
    code, out, err = call(capsys, "doctor", path)
    assert code == 1 and "students/0.4/config.json" in out + err and "rmtkd-edge export" in out + err


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("50,70", "did you mean [0.5, 0.7]?"),
        ("0.7,0.5", "did you mean [0.5, 0.7]?"),
        ("0.5,half", "--targets 0.5,half: must be shares"),
        ("", "must be shares"),
    ],
)
def test_bad_targets_are_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path, given: str, part: str
) -> None:
    code, _, err = call(capsys, "compress", tiny_recipe_file, "--out", tmp_path / "a", "--targets", given)
    assert code == 2 and part in err and not (tmp_path / "a").exists()
