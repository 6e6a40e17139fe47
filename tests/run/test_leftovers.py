"""What killed processes leave is recognised and swept; what others keep in a run directory stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.hashing import digest_of
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.folders import replace_folder, sweep_builds
from rmtkd_edge.run.lock import open_to_write

RECIPE = "title = 'x'\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "a", RECIPE, seed=3)


@pytest.mark.parametrize("left", [["recipe.toml"], [".recipe.toml.x"], [".run.json.ab12cd_3"], ["run.lock"], []])
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_was_left_before_its_manifest_is_continued(tmp_path: Path, left: list[str], force: bool) -> None:
    for name in left:
        (tmp_path / name).write_text(RECIPE)
    assert Run.create(tmp_path, RECIPE, 0, force=force).read_text("recipe.toml") == RECIPE


@pytest.mark.parametrize("name", ["recipe.toml", "notes.md", "compress"])
def test_what_is_not_left_by_this_command_is_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    for force in (False, True):
        with pytest.raises(RunDirError, match="no run directory"):
            Run.create(tmp_path, RECIPE, 0, force=force)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_kill_at_any_write_of_the_first_files_leaves_a_folder_that_goes_on(tmp_path: Path, monkeypatch) -> None:
    from rmtkd_edge.run import directory

    write = directory.atomic_write_bytes
    for writes in range(4):
        calls = iter(range(writes))

        def dies(path: Path, data: bytes, calls=calls) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            write(path, data)

        monkeypatch.setattr(directory, "atomic_write_bytes", dies)
        out = tmp_path / str(writes)
        try:
            Run.create(out, RECIPE, 0)
        except KeyboardInterrupt:
            monkeypatch.undo()
            known = (out / "run.json").exists()
            assert Run.open(out).path if known else Run.create(out, RECIPE, 0)
        monkeypatch.undo()


def test_temporary_files_of_killed_processes_are_swept_and_no_others(run: Run) -> None:
    run.write_json("compress/result.json", {})
    rubbish = [".run.json.a1b2c3d4", "compress/.result.json.zzzzzzz0", "profile/board.partial.tmp"]
    rubbish += [".export.abcdefgh/export/config.json", "compress/cycles/001/.0000010.safetensors.________"]
    mine = [".gitignore", ".notes.markdown", "compress/.plan.old.12345678", "data/.run.json.a1b2c3d4", "report/my.html"]
    for rel in (*rubbish, *mine):
        (run.path / rel).parent.mkdir(parents=True, exist_ok=True)
        (run.path / rel).write_text("x")
    with open_to_write(run.path) as again:
        again.verify()
    assert all((run.path / rel).exists() for rel in mine)
    assert not any((run.path / rel).exists() for rel in rubbish) and not (run.path / ".export.abcdefgh").exists()


@pytest.mark.parametrize("gone", [0, 1])
def test_a_removal_that_a_kill_cut_short_is_finished_by_the_next_process(
    run: Run, monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    from rmtkd_edge.run import directory

    for name in ("a", "b", "c"):
        run.write_text(f"compress/x/{name}.json", "{}")

    def dies(root: Path, names: list[str]) -> None:
        remove(root, names[:gone])
        raise KeyboardInterrupt

    remove = directory.remove_files
    monkeypatch.setattr(directory, "remove_files", dies)
    with pytest.raises(KeyboardInterrupt):
        run.remove("compress/x")
    monkeypatch.undo()
    (run.path / "compress/x/mine.txt").write_text("mine")
    run = Run.open(run.path)
    with open_to_write(run.path) as again:
        assert [path.name for path in (run.path / "compress/x").iterdir()] == ["mine.txt"]
        again.write_text("compress/x/a.json", "{}")
    with open_to_write(run.path) as again:  # what was written since stays
        assert again.read_text("compress/x/a.json") == "{}"


def test_force_removes_what_the_manifest_lists_and_spares_files_in_our_folders(run: Run) -> None:
    run.write_json("compress/result.json", {})
    run.write_text("report/figures/a.svg", "")
    for rel in ("compress/log.jsonl", "profile/board.partial"):
        (run.path / rel).parent.mkdir(exist_ok=True)
        (run.path / rel).write_text("ours")
    mine = ["export/thesis.tex", "report/notes.md", "compress/own/data.csv", "mine/x"]
    for rel in mine:
        (run.path / rel).parent.mkdir(parents=True, exist_ok=True)
        (run.path / rel).write_text("years")
    Run.create(run.path, RECIPE, 0, force=True)
    left = sorted(p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file())
    assert left == sorted([*mine, "recipe.toml", "run.json"]) and not (run.path / "report/figures").exists()


def test_a_stage_that_removes_its_folder_spares_files_of_others(run: Run) -> None:
    run.write_text("export/config.json", "{}")
    (run.path / "export/thesis.tex").write_text("years")
    run.remove("export")
    assert [p.name for p in (run.path / "export").iterdir()] == ["thesis.tex"]


def built(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def test_a_folder_that_was_built_elsewhere_takes_the_place_of_the_old_one(run: Run, tmp_path: Path) -> None:
    run.install("export", built(tmp_path / "new", a="1", b="1"))
    (run.path / "export/mine").write_text("mine")
    run.install("export", built(tmp_path / "newer", a="2"))
    Run.open(run.path).verify()
    assert {p.name: p.read_text() for p in (run.path / "export").iterdir()} == {"a": "2", "mine": "mine"}
    with pytest.raises(RunDirError, match="not written by this program"):
        run.install("export", built(tmp_path / "newest", mine="ours"))
    assert (run.path / "export/mine").read_text() == "mine"


def test_a_manifest_that_lists_files_outside_removes_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["files"]["../precious"] = "0" * 64
    (run.path / "run.json").write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))
    with pytest.raises(RunDirError, match="outside"):
        Run.create(run.path, RECIPE, 0, force=True)
    assert (tmp_path / "precious").exists()


def test_folders_are_replaced_whole_and_their_index_never_names_a_stranger(tmp_path: Path) -> None:
    old = built(tmp_path / "old", index="a", a="1")
    replace_folder(built(tmp_path / "n", index="b", b="2"), old, ["index", "a"], "index")
    assert sorted(p.name for p in old.iterdir()) == ["b", "index"]
    with pytest.raises(RunDirError, match="outside"):
        replace_folder(built(tmp_path / "m", index="c"), old, ["index", "../precious"], "index")


def test_folders_that_were_being_built_are_swept_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / ".b.abcd1234/b").mkdir(parents=True)
    (tmp_path / ".b.abcd5678/other").mkdir(parents=True)
    (tmp_path / ".b.long-name/b").mkdir(parents=True)
    sweep_builds(tmp_path / "b", ("b", "b.tar.gz"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.abcd5678", ".b.long-name"]
