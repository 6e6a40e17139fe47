"""Bundles replace only their own files, are made of sound models alone, and say where they cannot be written."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest
from profile_run_sample import exported_run

from rmtkd_edge.cli.app import main
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.profile.bundle import write_bundle
from rmtkd_edge.profile.options import BundleOptions
from rmtkd_edge.run.directory import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return exported_run(tmp_path_factory.mktemp("runs") / "a", external=True)


def few(run: Run, out: Path, force: bool = True) -> BundleOptions:
    return BundleOptions(run=run.path, on="raspberry-pi-5", out=out, lengths=(8,), quick=True, force=force)


def test_force_deletes_nothing_of_a_folder_that_is_no_bundle(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "project"
    out.mkdir()
    for name in ("plan.json", "thesis.tex"):
        (out / name).write_text("mine")
    for force in (True, False):
        with pytest.raises(RunDirError, match="no bundle"):
            write_bundle(run, few(run, out, force))
    assert sorted(p.name for p in out.iterdir()) == ["plan.json", "thesis.tex"]


def test_force_replaces_a_bundle_and_spares_what_was_added_to_it(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "b"
    write_bundle(run, few(run, out))
    for name in ("results.json", "models/notes.md"):
        (out / name).write_text("mine")
    (out / "inputs.npz").write_text("damaged")
    write_bundle(run, few(run, out))
    assert (out / "results.json").read_text() == (out / "models/notes.md").read_text() == "mine"
    assert (out / "inputs.npz").read_bytes()[:2] == b"PK" and not list(tmp_path.glob(".*"))
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        assert "b/bundle.json" in tar.getnames() and "b/results.json" not in tar.getnames()


@pytest.mark.parametrize("content", [b"mine", b""])
def test_force_deletes_no_archive_that_is_no_bundle(run: Run, tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "b.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(RunDirError, match="no bundle"):
        write_bundle(run, few(run, tmp_path / "b"))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(__file__, arcname="b/plan.json")
    with pytest.raises(RunDirError, match="no bundle"):
        write_bundle(run, few(run, tmp_path / "b"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("rel", ["export/onnx/model.onnx", "baseline/onnx/model.onnx.data", "export/rmtkd.json"])
def test_no_bundle_is_made_of_a_damaged_model(tmp_path: Path, rel: str) -> None:
    run = exported_run(tmp_path / "a", external=True)
    path = run.path / rel
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunDirError, match=path.name):
        write_bundle(run, few(run, tmp_path / "b"))
    assert not (tmp_path / "b").exists() and not (tmp_path / "b.tar.gz").exists()


@pytest.mark.parametrize("out", [".", "/", "..", "x/..", "n" * 300, "file/b"])
def test_a_place_that_cannot_be_a_bundle_is_the_users_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, out: str
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for force in ([], ["--force"]):
        with pytest.raises(SystemExit) as code:
            main(["bundle", str(run.path), "--on", "raspberry-pi-5", "--out", out, *force])
        assert code.value.code == 2 and "try:" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_bundle_of_the_run_in_the_current_folder(run: Run, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(run.path)
    with pytest.raises(SystemExit) as code:
        main(["bundle", ".", "--on", "raspberry-pi-5", "--seq-len", "8", "--quick"])
    assert code.value.code == 0 and Path(f"{run.path}-raspberry-pi-5/plan.json").is_file()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_the_users_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import numpy as np

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunDirError, match="cannot write") as caught:
        write_bundle(run, few(run, tmp_path / "b"))
    assert os.strerror(number) in caught.value.message and not list(tmp_path.iterdir())


def test_no_archive_is_unpacked_to_see_whose_it_is(run: Run, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        large, index = tarfile.TarInfo("b/a"), tarfile.TarInfo("b/bundle.json")
        large.size = 2**21
        tar.addfile(large, io.BytesIO(bytes(large.size)))
        tar.addfile(index)
    with pytest.raises(RunDirError, match="no bundle"):
        write_bundle(run, few(run, tmp_path / "b"))
