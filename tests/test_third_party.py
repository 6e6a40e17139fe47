"""A family and a task of another package go through compress, export, profile and report; nothing else is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from sklearn.datasets import load_digits
from third_party.install import SOURCE, install

ROOT = Path(__file__).parents[1]


class Installed:
    """A site folder with the third-party package, and Python processes that find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = install(folder / "site")

    def python(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Python, in the folder, with package and site on its path."""
        path = os.pathsep.join(map(str, (self.site, ROOT)))
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def command(self, *arguments: object) -> str:
        """Run a command that must succeed and return what it printed."""
        done = self.python("-m", "rmtkd_edge", *arguments)
        assert done.returncode == 0, f"{arguments}:\n{done.stderr[-3000:]}"
        return done.stdout


def recipe(**sections: dict[str, object]) -> str:
    """Return a recipe of both plugins that is done in seconds."""
    return tomli_w.dumps(
        {
            "title": "tiny",
            "model": {"family": "mlp", "source": "scratch", "shape": {"widths": [48, 24]}, **sections.get("model", {})},
            "task": {
                "name": "parity",
                "kind": "digit-parity",
                "metric": "f1_macro",
                "labels": [str(digit) for digit in range(10)],
                **sections.get("task", {}),
            },
            "train": {"epochs": 6, "learning_rate": 3e-3, "batch_size": 64},
            "analyse": {"minimum_rows": 400, "weighting_rows": 128},
            "compress": {"rounds": 1, "warm_start_images": 400, "minimum_rank": 2},
            "distil": {"epochs": 1, "learning_rate": 2e-3, "batch_size": 64},
            "stop": {"target_reduction": 0.3, "max_drop": 0.2},
            "export": {"max_drop": 0.2},
        }
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The package installed, a recipe, and digits of 8 x 8 pixels."""
    found = Installed(tmp_path_factory.mktemp("third_party"))
    digits = load_digits()
    images = np.repeat((digits.images * 15.9).astype(np.uint8)[..., None], 3, axis=-1)
    (found.folder / "data").mkdir()
    for split, rows in (("train", slice(0, 600)), ("validation", slice(600, 750)), ("test", slice(750, 900))):
        np.savez(found.folder / "data" / f"{split}.npz", images=images[rows], labels=digits.target[rows])
    (found.folder / "tiny.toml").write_text(recipe(), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def run(installed: Installed) -> Path:
    """A run directory after all four stages."""
    installed.command("compress", "tiny.toml", "--out", "run", "--data", "data")
    installed.command("export", "run")
    installed.command("profile", "run", "--quick", "--iterations", 10, "--duration", 0)
    installed.command("report", "run")
    return installed.folder / "run"


def test_all_four_stages_know_the_family_and_the_task(run: Path) -> None:
    result = json.loads((run / "compress/result.json").read_text())
    assert 0.3 <= result["reduction"] < 1
    exported = json.loads((run / "export/rmtkd.json").read_text())
    assert (exported["family"], exported["kind"], exported["metric"]) == ("mlp", "digit-parity", "f1_macro")
    assert exported["labels"] == ["even", "odd"] and exported["variants"]["fp32"]["test"]["values"]["f1_macro"] > 0.6
    measured = json.loads((run / "profile/local-cpu.json").read_text())
    assert {item["label"] for item in measured["results"]} >= {"rmt-kd fp32", "original fp32"}


def test_the_report_names_the_metric_of_the_task(run: Path) -> None:
    page = (run / "report/report.md").read_text(encoding="utf-8")
    assert "f1_macro" in page or "macro-F1" in page
    assert "hidden.0" in page and "accuracy drop" not in page


def test_the_papers_table_says_what_the_family_does_not(installed: Installed, run: Path) -> None:
    installed.command("report", "--paper", run, "--out", "paper")
    (group,) = json.loads((installed.folder / "paper/paper.json").read_text(encoding="utf-8"))["groups"]
    (row,) = group["table"]
    assert (group["metric"], row["body_reduction"]) == ("f1_macro", None) and row["reduction"] >= 0.3
    page = (installed.folder / "paper/paper.md").read_text(encoding="utf-8")
    assert "does not tell word table and classifier apart" in page


def test_torch_and_onnxruntime_give_the_same_answers(installed: Installed, run: Path) -> None:
    program = """
import numpy as np, rmtkd_edge as rk
images = list(np.load("data/test.npz")["images"])
a, b = (rk.load("run", backend=name).predict(images) for name in ("onnx", "torch"))
np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-4, atol=1e-4)
assert a.labels == b.labels and set(a.labels) == {"even", "odd"}
"""
    done = installed.python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": {"family": "encoder", "shape": {}}}, "digit-parity does not go with the family encoder"),
        (
            {"task": {"kind": "text-classification", "text": ["a"]}},
            "text-classification does not go with the family mlp",
        ),
        ({"model": {"family": "mlpp"}}, "did you mean `mlp`?"),
    ],
)
def test_families_and_tasks_are_not_mixed(installed: Installed, sections: dict[str, object], says: str) -> None:
    (installed.folder / "mixed.toml").write_text(recipe(**sections), encoding="utf-8")
    done = installed.python("-m", "rmtkd_edge", "compress", "mixed.toml", "--out", "mixed", "--data", "data")
    assert done.returncode == 2 and says in done.stderr
    assert not (installed.folder / "mixed").exists()


def test_the_worked_example_is_a_recipe(installed: Installed) -> None:
    program = (
        f"from rmtkd_edge.config.recipes import load_recipe; print(load_recipe({str(SOURCE / 'digit-parity.toml')!r}))"
    )
    done = installed.python("-c", program)
    assert done.returncode == 0 and "mlp" in done.stdout, done.stderr
