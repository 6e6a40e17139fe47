"""Figures belong to files: what was measured on others is told apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report.report_sample import build_run, exported, variant

from rmtkd_edge.run.freshness import replaced_files, stale_profiles
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
