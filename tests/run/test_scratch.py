"""Temporary folders: gone at the end, swept where a killed process left them, spared where one is at work."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rmtkd_edge.run.scratch import scratch_folder

HOLDER = """
import time
from rmtkd_edge.run.scratch import scratch_folder
with scratch_folder("test") as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "rmtkd-scratch-mine").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        with scratch_folder("test") as mine:
            assert theirs.is_dir() and mine.is_dir() and not list(mine.iterdir())
        assert not mine.parent.exists()
    finally:
        process.kill()
        process.communicate()
    with scratch_folder("test"):
        assert not theirs.parent.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["rmtkd-scratch-mine"]  # nothing says that it was ours
