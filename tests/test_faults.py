"""The campaign of tools/faults.py in its short form: killed stages end as if they had not been, odd inputs are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "faults.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")
def test_kills_and_mutations_of_a_small_run() -> None:
    asked = ["--seed", "1", "--kills", "1", "--mutations", "2", "--cases", "text", "--stages", "compress,export"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOL.parents[1])}
    done = subprocess.run(
        [sys.executable, str(TOOL), *asked, "--parts", "kills,mutations", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tried = {tally["kind"]: tally["tried"] for tally in json.loads(done.stdout)}
    assert sum(tried.values()) == 2 * 1 + 5 * 2, tried
