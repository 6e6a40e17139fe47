"""Processes that a signal ends, here and over ssh: the error names the processor or the memory, and what to do."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from profile_bundle import write_plan

from rmtkd_edge.errors import ProviderError
from rmtkd_edge.profile import transport_ssh
from rmtkd_edge.profile.plan import copy_runner
from rmtkd_edge.profile.transport_local import death, run_bundle
from rmtkd_edge.profile.transport_ssh import Target, Waiting, run_over_ssh


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    write_plan(folder)
    copy_runner(folder)
    return folder


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `ssh` that runs the script on this machine, in a home folder of its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    script = f'for last; do :; done\nHOME={tmp_path / "home"} exec {shutil.which("sh")} -c "$last"'
    program(tmp_path / "bin" / "ssh", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)


DEATHS = {"ILL": "lacks instructions", "KILL": "want of memory", "SEGV": "segmentation fault"}


@pytest.mark.parametrize("name", DEATHS)
def test_a_signal_here_is_told_as_what_it_means(name: str, bundle: Path, tmp_path: Path) -> None:
    python = program(tmp_path / "python", f"kill -{name} $$")
    with pytest.raises(ProviderError, match=f"on this machine: .*{DEATHS[name]}") as caught:
        run_bundle(bundle, tmp_path / "results.json", python=python)
    assert caught.value.hint


@pytest.mark.usefixtures("ssh")
@pytest.mark.parametrize("name", DEATHS)
def test_a_signal_when_a_host_imports_onnxruntime_is_told_at_once(name: str, bundle: Path, tmp_path: Path) -> None:
    python = program(tmp_path / "python", f"kill -{name} $$")
    with pytest.raises(ProviderError, match=f"on pi: .*{DEATHS[name]}") as caught:
        run_over_ssh(bundle, tmp_path / "results.json", Target("pi", python), waiting=Waiting(patience_s=1))
    if name == "ILL":
        assert f"ssh pi {python} -m pip" in caught.value.hint


@pytest.mark.usefixtures("ssh")
def test_a_signal_in_the_middle_of_a_host_s_work_is_told_too(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_ssh, "_check_python", lambda *_: None)
    real = shutil.which("python3")
    python = program(tmp_path / "python", f'case "$1" in runner.py) kill -ILL $$;; esac\nexec {real} "$@"')
    with pytest.raises(ProviderError, match=r"on pi: .*lacks instructions"):
        run_over_ssh(bundle, tmp_path / "results.json", Target("pi", python), waiting=Waiting(poll_s=0.05))


@pytest.mark.usefixtures("ssh")
def test_a_host_without_onnxruntime_is_told_how_to_install_it(bundle: Path, tmp_path: Path) -> None:
    python = program(tmp_path / "python", "echo \"ModuleNotFoundError: No module named 'onnxruntime'\" >&2; exit 1")
    with pytest.raises(ProviderError, match="No module named 'onnxruntime'") as caught:
        run_over_ssh(bundle, tmp_path / "results.json", Target("pi", python))
    assert "pip install onnxruntime numpy" in caught.value.hint


def test_other_codes_are_no_deaths() -> None:
    assert [death(code, "here", "python") for code in (0, 1, 2, 3, 127, 255, -signal.SIGTERM)] == [None] * 7
    assert str(death(132, "here", "python")) == str(death(-4, "here", "python"))
