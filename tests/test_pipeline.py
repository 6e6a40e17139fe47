"""From a recipe and CSV files to a report, through the command line alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import rmtkd_edge
from rmtkd_edge.cli import app as cli
from rmtkd_edge.run.directory import Run


def call(capsys, *argv: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return left.value.code, out, err


@pytest.mark.slow
def test_the_four_verbs(capsys, tmp_path: Path, tiny_recipe_file: Path, tiny_data: Path):
    path = tmp_path / "runs" / "a"
    compress = ("compress", tiny_recipe_file, "--out", path, "--data", tiny_data, "--set", "stop.max_drop=0.5")
    code, out, err = call(capsys, *compress)
    assert code == 0 and "rmtkd-edge export" in out and "cycle 1" in err
    code, _, err = call(capsys, *compress)
    assert code == 2 and "--force" in err

    code, out, err = call(capsys, "export", path, "--json", "--set-nothing")
    assert code == 2
    code, out, err = call(capsys, "export", path, "--json")
    exported = json.loads(out)
    assert code == 0 and not err and exported["variants"]["fp32"]["size_bytes"] > 0
    code, _, err = call(capsys, "export", path)
    assert code == 2 and "--force" in err

    profile = ("profile", path, "--on", "local-cpu", "--seq-len", "16", "--batch-size", "1")
    code, out, err = call(capsys, *profile, "--quick", "--iterations", "10", "--duration", "0", "--json")
    measured = json.loads(out)
    assert code == 0 and {r["label"] for r in measured["results"]} >= {"rmt-kd fp32", "original fp32"}
    assert all(r["workload"]["batch"] == 1 and r["workload"]["seq"] == 16 for r in measured["results"])
    code, _, err = call(capsys, *profile)
    assert code == 2 and "--force" in err

    code, out, _ = call(capsys, "report", path)
    page = Path(out.splitlines()[0])
    assert code == 0 and page.is_file() and "local-cpu" in page.read_text(encoding="utf-8")
    Run.open(path).verify()

    texts = ["the film was great", "a dull and awful plot with some music"]
    runs = [rmtkd_edge.load(path, backend=name).predict(texts).outputs for name in ("onnx", "torch")]
    np.testing.assert_allclose(*runs, rtol=1e-3, atol=1e-4)
