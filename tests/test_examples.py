"""The examples run as they are, at a tiny size, and the notebook's cells run in their order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = ("own_text_data.py", "own_images.py", "transformers_model.py")

pytestmark = pytest.mark.slow


def run(arguments: list[str], folder: Path) -> str:
    """Run a Python command in a folder and return what it printed."""
    path = os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_leaves_an_onnx_file(name: str, tmp_path: Path) -> None:
    run([str(EXAMPLES / name), "--tiny", "--out", str(tmp_path / "out")], tmp_path)
    assert (tmp_path / "out" / "onnx" / "model.onnx").is_file()


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code"), encoding="utf-8")
    run([str(script)], tmp_path)
    assert (tmp_path / "out" / "notebook" / "onnx" / "model.onnx").is_file()
