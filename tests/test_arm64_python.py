"""The set-up of the emulated Arm Python, as far as it needs no network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "arm64_python.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("arm64_python", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_versions_are_those_of_the_constraints(tool: ModuleType) -> None:
    found = tool.wheel_versions(tool.CONSTRAINTS.read_text())
    assert set(found) == {"numpy", "onnxruntime"} and all(v[0].isdigit() for v in found.values())
    with pytest.raises(tool.SetupError, match="numpy"):
        tool.wheel_versions("onnxruntime==1.0\n")


def test_absolute_links_stay_inside_the_root(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/libc.so").write_text("arm")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/link").symlink_to("/usr/lib/libc.so")
    tool.relink(tmp_path)
    assert (tmp_path / "usr/link").read_text() == "arm" and (tmp_path / "lib").readlink() == Path("usr/lib")


def test_what_is_missing_is_named_with_its_package(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path)}
    for more in ([], ["--check"]):
        done = subprocess.run(
            [sys.executable, str(TOOL), str(tmp_path / "d"), *more], env=env, capture_output=True, text=True
        )
        assert done.returncode == 2 and "apt install qemu-user-static" in done.stderr
    assert not (tmp_path / "d").exists()


def test_the_launcher_starts_itself_again_and_names_its_core(tool: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    (folder / "root").mkdir(parents=True)
    emulator = tmp_path / "emulator"
    emulator.write_text('#!/bin/sh\necho "$RMTKD_PYTHON|$PYTHONPATH|$*"\n')
    emulator.chmod(0o755)
    launcher = tool.write_launcher(folder, str(emulator), "cortex-a72")
    done = subprocess.run([launcher, "-c", "x"], capture_output=True, text=True, check=True)
    again, site, words = done.stdout.strip().split("|")
    assert (again, site) == (str(launcher), f"{folder}/site")
    assert words == f"-cpu cortex-a72 -L {folder}/root {folder}/root/usr/bin/python3.11 -c x"
    cpuinfo = (folder / "root/proc/cpuinfo").read_text()
    assert "asimd " in cpuinfo and "asimddp" not in cpuinfo and cpuinfo.count("processor\t") == os.cpu_count()
