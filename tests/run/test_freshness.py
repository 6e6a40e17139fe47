"""Figures belong to files: what was measured on others is told apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report.report_sample import build_run, exported, variant

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.freshness import refuse_other_rows, replaced_files, stale_profiles
from rmtkd_edge.run.records.profile import ProfileRecord


def test_a_profile_of_the_files_that_are_there_is_fresh(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    profile = run.read_record(ProfileRecord, "profile/laptop.json")
    assert replaced_files(run, profile) == [] and stale_profiles(run) == []


def test_a_profile_of_files_that_were_exported_again_is_stale(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    again = dataclasses.replace(variant("int8", False), sha256="c" * 64)
    kept = exported(False, {})
    run.write_record("export/rmtkd.json", dataclasses.replace(kept, variants={**kept.variants, "int8": again}))
    profile = run.read_record(ProfileRecord, "profile/laptop.json")
    assert set(replaced_files(run, profile)) == {"rmt-kd int8"}
    assert stale_profiles(run) == ["laptop", "raspberry-pi-5"]


def test_other_rows_than_a_run_was_begun_with_are_refused(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    refuse_other_rows(run, {"train": "a"}, "train.csv", "restore")  # nothing is known of its rows
    run.mark("compress", "running", rows={"train": "a", "validation": "b", "test": "c"})
    refuse_other_rows(run, {"train": "a", "validation": "b", "test": "c"}, "train.csv", "restore")
    refuse_other_rows(run, {}, "train.csv", "restore")  # a task that gives none
    with pytest.raises(RunDirError, match=r"validation and test changed \(validation of x\.csv\)") as caught:
        refuse_other_rows(run, {"train": "a", "validation": "B"}, "validation of x.csv", "restore")
    assert caught.value.hint == "restore"
