"""One flipped byte in any file of a finished run: whoever reads the file refuses it, and the doctor names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report.report_sample import build_run

from rmtkd_edge.cli.app import main
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.report.stage import report_runs
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run

UNREAD = ("plan.json", "model.json", "log.jsonl", "outputs.safetensors", "cycle.json", "teacher.json")
"""The result holds the last two."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = build_run(tmp_path_factory.mktemp("runs") / "a", scale=32)
    for rel in (layout.cycle_plan(1), f"{layout.BEST}/{layout.SHAPE}", layout.LOG, layout.OUTPUTS):
        run.write_text(rel, '{"a": 1}\n')
    return run


def doctor(run: Run, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]]]:
    with pytest.raises(SystemExit) as left:
        main(["doctor", str(run.path), "--json"])
    return left.value.code, json.loads(capsys.readouterr().out)


def test_a_flipped_byte_anywhere_is_refused_or_named(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, (whole,) = doctor(run, capsys)
    assert code == 0 and whole["state"] == "ok"
    for rel in list(run.manifest["files"]):
        path = run.path / rel
        kept = path.read_bytes()
        path.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
        code, (check,) = doctor(run, capsys)
        assert code == 1 and check["name"] == rel and "changed" in check["found"] and check["advice"]
        if path.name in UNREAD:
            assert report_runs([Run.open(run.path)], tmp_path).html.is_file()
        else:
            with pytest.raises(RunDirError, match=path.name):
                report_runs([Run.open(run.path)], tmp_path)
        path.write_bytes(kept)


def test_a_lost_file_and_its_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.path / layout.profile_record("laptop")
    kept = path.read_bytes()
    path.unlink()
    code, (check,) = doctor(run, capsys)
    assert code == 1 and check["found"] == "is missing" and "--on laptop --force" in check["advice"]
    path.write_bytes(kept)


def test_a_changed_figure_of_the_manifest_is_refused_and_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.path / layout.MANIFEST
    kept = file.read_text()
    seed = run.manifest["seed"]
    file.write_text(kept.replace(f'"seed": {seed}', f'"seed": {seed ^ 1}'))
    code, (check,) = doctor(run, capsys)
    assert code == 1 and check["name"] == layout.MANIFEST and "changed" in check["found"] and "--out" in check["advice"]
    with pytest.raises(SystemExit) as left:
        main(["report", str(run.path)])
    assert left.value.code == 2 and str(file) in capsys.readouterr().err
    file.write_text(kept)


def test_what_is_no_run_is_the_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", str(tmp_path)])
    assert left.value.code == 2 and "no run directory" in capsys.readouterr().err
