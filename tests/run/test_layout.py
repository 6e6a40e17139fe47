"""Paths, roles and precisions: named once, found again in a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from report.report_sample import build_run

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run import Run, layout


def test_labels_name_the_method_and_the_original() -> None:
    assert layout.label("candidate", "int8") == "rmt-kd int8"
    assert layout.label("candidate", "fp32", "plain-kd") == "plain-kd fp32"
    assert layout.label("baseline", "fp16", "plain-kd") == "original fp16"


def test_files_of_roles_and_precisions() -> None:
    files = [precision.file for precision in layout.PRECISIONS.values()]
    assert sorted(files) == ["onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx"]
    assert {name: role.folder for name, role in layout.ROLES.items()} == {"candidate": "export", "baseline": "baseline"}
    assert [name for name, precision in layout.PRECISIONS.items() if precision.on_request] == ["fp16"]
    assert layout.ROLES["candidate"].checkpoint == layout.BEST and layout.ROLES["baseline"].checkpoint == layout.TEACHER


def test_cycles_and_devices_of_a_run_are_found(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    run.write_text("profile/laptop.partial", "")
    assert layout.cycle_numbers(run) == [1, 2, 3, 4]
    assert layout.profile_names(run) == ["laptop", "raspberry-pi-5"]
    assert all(run.has(layout.profile_record(name)) for name in layout.profile_names(run))


def test_a_recipe_that_is_no_toml_names_the_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "a = = 1", 0)
    with pytest.raises(RunDirError, match=r"recipe\.toml is not valid TOML"):
        layout.read_recipe(run)


@pytest.mark.parametrize("module", ["rmtkd_edge.run", "rmtkd_edge.run.freshness", "rmtkd_edge.report.stage"])
def test_reading_a_run_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
