"""One process writes to a run directory at a time; a dead one is in nobody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import LOCK
from rmtkd_edge.run.lock import RunLock, open_to_write

HOLDER = """
import sys, time
from rmtkd_edge.run.lock import open_to_write
with open_to_write(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "a", "title = 'x'\n", seed=3)


@pytest.fixture
def holder(run: Run):
    """Another process that holds the run."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_by_the_pid_of_the_first(run: Run, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(RunDirError, match=f"in use by process {holder.pid} on ") as caught, open_to_write(run.path):
        pass
    assert caught.value.hint and (run.path / LOCK).exists()
    assert Run.open(run.path).read_text("recipe.toml")  # reading is not in the way


def test_the_lock_of_a_killed_process_is_taken_over(run: Run, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run.path / LOCK).exists()
    with open_to_write(run.path) as again:
        assert again.manifest["seed"] == 3
    assert not (run.path / LOCK).exists()


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1, "host": "elsewhere"}', "[" * 1000])
def test_what_a_lock_file_says_locks_nothing_by_itself(run: Run, text: str) -> None:
    (run.path / LOCK).write_text(text)
    with open_to_write(run.path):
        assert str(os.getpid()) in (run.path / LOCK).read_text()


def test_a_lock_is_taken_once_and_given_back_whatever_happens(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(run.path) as lock:
        lock.take()
        lock.take()
        with pytest.raises(RunDirError, match=str(os.getpid())), RunLock(run.path) as other:
            other.take()
        raise ZeroDivisionError
    with open_to_write(run.path):
        pass


def test_no_lock_is_put_into_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no run directory"), open_to_write(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="is a file"), RunLock(tmp_path / "file") as lock:
        lock.take()


def test_a_link_in_the_place_of_the_lock_is_not_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (run.path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(RunDirError, match="cannot write"), open_to_write(run.path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
