"""Figures belong to files: what was measured on others is told apart."""

from __future__ import annotations

from pathlib import Path

from rmtkd_edge.run.freshness import replaced_files, stale_profiles
from rmtkd_edge.run.directory import Run


def exported(path: Path, digest: str) -> Run:
    run = Run.create(path, "", 0)
    run.write_json("export/rmtkd.json", {"variants": {"fp32": {"sha256": digest}}})
    run.write_json("baseline/rmtkd.json", {"variants": {"fp32": {"sha256": "b"}}})
    return run


def test_a_profile_of_the_files_that_are_there_is_fresh(tmp_path: Path) -> None:
    run = exported(tmp_path / "run", "a")
    profile = {"results": [{"label": "new", "model": {"sha256": "a"}}, {"label": "old", "model": {"sha256": "b"}}]}
    run.write_json("profile/here.json", profile)
    assert replaced_files(run, profile) == [] and stale_profiles(run) == []


def test_a_profile_of_files_that_were_exported_again_is_stale(tmp_path: Path) -> None:
    run = exported(tmp_path / "run", "c")
    run.write_json("profile/here.json", {"results": [{"label": "new", "model": {"sha256": "a"}}]})
    assert stale_profiles(run) == ["here"]
