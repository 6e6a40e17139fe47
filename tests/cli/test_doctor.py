"""The doctor: two onnxruntimes are a conflict, and a provider counts when a session really gets it."""

import json
import os
import subprocess
import sys

import onnx
import pytest

from rmtkd_edge.cli import examine as doctor


def test_two_onnxruntimes_are_a_conflict_with_a_command():
    installed = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}
    for gpu, kept in ((True, "onnxruntime-gpu==1.31.1"), (False, "onnxruntime==1.30.0")):
        both = doctor.onnxruntime_packages(installed, gpu)
        assert both.state == "problem" and "overwrite" in both.found
        assert both.advice == f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {kept}"
    assert doctor.onnxruntime_packages({}).state == "problem"
    assert doctor.onnxruntime_packages({"onnxruntime": "1.30.0"}).state == "ok"


def test_torch_for_cuda_without_a_gpu_is_a_note_with_the_smaller_install():
    assert doctor.torch_build(None, False) == doctor.torch_build("13.0", True) == []
    (note,) = doctor.torch_build("13.0", False)
    assert note.state == "note" and "whl/cpu" in note.advice and "13.0" in note.found


def test_the_tiny_model_is_valid_and_the_cpu_gets_it():
    onnx.checker.check_model(onnx.load_from_string(doctor.tiny_model()))
    assert doctor.loads(doctor.tiny_model(), "CPUExecutionProvider")[0]


def test_a_provider_that_is_not_there_is_said_not_to_load():
    found, reason = doctor.loads(doctor.tiny_model(), "NoSuchExecutionProvider")
    assert not found and reason


def test_every_meter_is_looked_at():
    names = {check.name for check in doctor.meters()}
    assert {f"meter {name}" for name in ("rapl", "nvml", "ina3221", "battery", "pmic", "external_csv")} <= names
    assert not any("modelled" in name or "base" in name for name in names)


def test_a_pair_of_other_versions_is_told_without_importing_it(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda names: {"torch": "2.0.1", "torchvision": "0.29.1"})
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: pytest.fail("imported"))
    check = doctor.torch_pair()
    assert check.state == "problem" and "2.0.1" in check.found and "pip install" in check.advice


@pytest.mark.slow
def test_every_line_has_what_was_found():
    for check in doctor.examine():
        assert check.name and check.found and check.state in ("ok", "note", "problem")
        assert check.state != "problem" or check.advice


BROKEN = {
    "raise ImportError('libcudart.so.13: cannot open shared object file')": (
        "libcudart.so.13",
        "onnxruntime-gpu>=1.29",
    ),
    "import os, signal; os.kill(os.getpid(), signal.SIGILL)": ("SIGILL", "--upgrade onnxruntime"),
    "raise OSError('a library is damaged')": ("a library is damaged", "pip install"),
}


@pytest.mark.parametrize("program", BROKEN)
def test_an_onnxruntime_that_does_not_import_is_told_with_the_way_out(program, tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(program, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    code = "import json; from rmtkd_edge.cli.examine import providers, meters; print(json.dumps("
    code += "[[c.name, c.state, c.found, c.advice] for c in [*providers(), *meters()]]))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    first, *others = json.loads(done.stdout)
    says, way_out = BROKEN[program]
    assert first[:2] == ["providers", "problem"] and says in first[2] and way_out in first[3]
    assert any(name == "meter rapl" for name, *_ in others), "what comes after it is examined"


def test_other_commands_without_onnxruntime_are_the_users_to_mend(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(next(iter(BROKEN)), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [
        sys.executable,
        "-m",
        "rmtkd_edge",
        "calibrate",
        "--on",
        "local-cpu",
        "--out",
        str(tmp_path / "out.toml"),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "libcudart.so.13" in done.stderr and "rmtkd-edge doctor" in done.stderr
