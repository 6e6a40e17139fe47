"""SIGKILL on the way through a family of sizes: the same command ends with the files of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from rmtkd_edge.api.compress import CompressOptions, compress_run
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.folders import files_of
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.reporter import SilentReporter

TARGETS = (0.3, 0.6)
PROGRAM = """
import json, os, signal, sys
import torch, transformers
from rmtkd_edge.cli.app import main
from rmtkd_edge.compress import stage
from rmtkd_edge.run import directory

argv, write = sys.argv[2:], directory.atomic_write_bytes
for moment in json.loads(sys.argv[1]):
    def dies(path, data):
        write(path, data)
        if moment in path.as_posix():
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()  # of a process that imported everything and computed nothing
    if not child:
        directory.atomic_write_bytes = dies
        try:
            main(argv)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        sys.exit(f"{moment}: exit {code}")
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_dict: dict[str, Any]) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    rows = {"train_limit": 320, "validation_limit": 80}
    cut = {**tiny_recipe_dict["compress"], "sites_per_cycle": 2, "rounds": 2}
    steps = {"steps": 4, "learning_rate": 2e-3, "evaluate_every": 2}
    stop = {"max_drop": 1.0}
    tables = {"task": {**tiny_recipe_dict["task"], **rows}, "compress": cut, "distil": steps, "stop": stop}
    train = {**tiny_recipe_dict["train"], "epochs": 6}
    file.write_text(tomli_w.dumps({**tiny_recipe_dict, **tables, "train": train}))
    return file


def compressed(recipe: Path, data: Path, out: Path) -> CompressRecord:
    return compress_run(CompressOptions(str(recipe), out, data=data, targets=TARGETS), SilentReporter())


def without_clocks(record: CompressRecord) -> CompressRecord:
    cycles = tuple(replace(cycle, seconds={}) for cycle in record.cycles)
    return replace(record, seconds=0.0, teacher=replace(record.teacher, seconds=0.0), cycles=cycles)


def hashes(path: Path) -> dict[str, str]:
    """Return the hashes of the weights that a run's manifest lists."""
    listed = Run.open(path).manifest["files"]
    return {rel: sha256 for rel, sha256 in listed.items() if rel.endswith(".safetensors")}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_a_family_that_was_killed_ends_with_the_same_students_and_files(
    recipe: Path, tiny_data: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    result = compressed(recipe, tiny_data, whole)
    assert len(result.family) == 2
    first = [cycle.index for cycle in result.cycles if cycle.target == TARGETS[0]]
    second = [cycle.index for cycle in result.cycles if cycle.target == TARGETS[1]]
    moments = [
        layout.cycle_record(first[-1]),  # between two students
        f"{layout.cycle_training(second[0], 0)}/",  # within the second one
        f"{layout.student(str(TARGETS[0])).checkpoint}/{layout.WEIGHTS}",  # when the first is written
        layout.RESULT,
    ]
    asked = ["compress", str(recipe), "--data", str(tiny_data), "--out", str(out), "--targets", "0.3,0.6"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    argv = [sys.executable, "-c", PROGRAM, json.dumps(moments), *asked]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert without_clocks(compressed(recipe, tiny_data, out)) == without_clocks(result)
    assert files_of(out) == files_of(whole) and hashes(out) == hashes(whole)
    Run.open(out).verify()
