"""The run directory: nothing half-written, nothing altered unnoticed, nothing outside of it."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rmtkd_edge.run.directory as run_module
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.hashing import digest_of, sha256_file
from rmtkd_edge.profile.measuring import store
from rmtkd_edge.run.directory import SCHEMA, Run, atomic_write_bytes


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "a", "title = 'x'\n", seed=3)


def test_what_is_written_is_read_again_by_another_process(run: Run):
    run.write_json("compress/result.json", {"accuracy": 0.5, "why": None})
    run.write_tensors("compress/w.safetensors", {"w": torch.arange(6.0).reshape(2, 3).T})
    run.mark("compress", "done", parameters=7)
    again = Run.open(run.path)
    assert again.read_json("compress/result.json") == {"accuracy": 0.5, "why": None}
    assert torch.equal(again.read_tensors("compress/w.safetensors")["w"], torch.arange(6.0).reshape(2, 3).T)
    assert again.stage("compress")["parameters"] == 7 and again.stage("compress")["finished"]
    assert again.stage("export") == {} and again.manifest["seed"] == 3
    assert again.manifest["recipe_sha256"] == hashlib.sha256(again.read_text("recipe.toml").encode()).hexdigest()
    again.verify()


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b" ", lambda b: bytes([b[0] ^ 1]) + b[1:]])
def test_a_file_that_is_not_what_was_written_is_named_with_both_hashes(run: Run, damage):
    path = run.write_json("compress/result.json", {"a": 1})
    wanted = sha256_file(path)
    path.write_bytes(damage(path.read_bytes()))
    for read in (lambda: run.read_json("compress/result.json"), lambda: run.verify(), lambda: run.verify("compress/")):
        with pytest.raises(RunDirError) as caught:
            read()
        assert str(path) in caught.value.message and caught.value.hint
        assert wanted in caught.value.message and sha256_file(path) in caught.value.message
    run.verify("export/")


def test_a_file_that_is_missing_or_was_never_recorded_is_named(run: Run):
    run.write_text("a.txt", "x").unlink()
    (run.path / "b.txt").write_text("somebody's")
    for rel in ("a.txt", "b.txt", "c.txt"):
        with pytest.raises(RunDirError, match=rel):
            run.read_text(rel)


def test_weights_that_are_no_safetensors_are_refused_not_unpickled(run: Run):
    run.write_bytes("w.safetensors", b"\x80\x04K\x01.")
    with pytest.raises(RunDirError, match="safetensors"):
        run.read_tensors("w.safetensors")


def test_another_schema_names_both_versions(run: Run):
    manifest = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**manifest, "schema": "rmtkd-edge/run@9", "version": "7.1"}))
    with pytest.raises(RunDirError) as caught:
        Run.open(run.path)
    assert "run@9" in caught.value.message and SCHEMA in caught.value.message and "7.1" in caught.value.hint


def with_digest(manifest: dict[str, Any]) -> str:
    return json.dumps({**manifest, "digest": digest_of(manifest)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"schema": SCHEMA}),
        '{"schema": "rmtkd-edge/run@1", "version": "0.1.0", "files": {}, "stages": {}, "seed": 0}',
        "\x00",
        *[
            with_digest({"schema": SCHEMA, "files": {}, "stages": {}, "seed": 0, **odd})
            for odd in (
                {"seed": -1},
                {"seed": 2**32},
                {"seed": True},
                {"seed": 1.5},
                {"files": {"a": 5}},
                {"files": {"a": "short"}},
                {"files": []},
                {"stages": {"compress": 5}},
                {"stages": {"compress": {"state": "done", "data": 5}}},
                {"stages": {"compress": {"state": "eaten"}}},
                {"recipe_sha256": 5},
                {"version": ["0.2"]},
            )
        ],
        with_digest({"schema": SCHEMA, "files": {}, "stages": {"export": {"seconds": float("nan")}}, "seed": 0}),
        with_digest({"schema": SCHEMA, "files": {}, "seed": 0, "stages": {}})[:-1]
        + ', "b":'
        + "[" * 900
        + "]" * 900
        + "}",
    ],
)
def test_a_manifest_that_is_none_is_the_users_error(run: Run, text: str):
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunDirError):
        Run.open(run.path)


def test_a_flipped_bit_of_the_manifest_is_refused_wherever_it_changes_what_is_read(run: Run):
    run.mark("compress", "done", seconds=12.5, parameters=7, data="C:\\é")
    file, wanted = run.path / "run.json", Run.open(run.path).manifest
    whole, read = file.read_bytes(), 0
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 7]) + whole[place + 1 :])
        try:
            assert Run.open(run.path).manifest == wanted
            read += 1
        except RunDirError as err:
            assert str(file) in err.message and "--out" in err.hint
    assert read < 5  # spellings of the same, such as \u00E9
    file.write_bytes(whole.replace(b"12.5", b"12.6"))
    with pytest.raises(RunDirError, match="changed after it was written"):
        Run.open(run.path)


def test_a_manifest_of_the_schema_before_had_no_digest_and_gets_one(run: Run):
    file = run.path / "run.json"
    older = {**json.loads(file.read_text()), "schema": "rmtkd-edge/run@2"}
    file.write_text(json.dumps(older))
    with pytest.raises(RunDirError, match="digest"):  # a bit of the schema alone leads to the older one
        Run.open(run.path)
    del older["digest"]
    file.write_text(json.dumps(older))
    Run.open(run.path).write_text("a.txt", "x")
    newer = json.loads(file.read_text())
    assert newer["schema"] == SCHEMA and newer["digest"] == digest_of(newer)
    assert Run.open(run.path).manifest["seed"] == 3


def test_results_have_the_digest_of_the_manifest(run: Run):
    """What measures runs without this package and has a digest of its own."""
    assert store.digest_of(run.manifest) == digest_of(run.manifest)


def test_a_folder_that_is_no_run_is_not_opened(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunDirError, match=r"no run directory"):
            Run.open(path)


def test_existing_output_needs_force_and_force_spares_what_is_not_ours(run: Run):
    run.write_text("compress/old.txt", "old")
    (run.path / "notes.md").write_text("mine")
    with pytest.raises(RunDirError) as caught:
        Run.create(run.path, "", 0)
    assert "--force" in caught.value.hint and run.read_text("compress/old.txt") == "old"
    new = Run.create(run.path, "title = 'y'\n", 4, force=True)
    assert not (run.path / "compress").exists() and new.manifest["seed"] == 4
    assert (run.path / "notes.md").read_text() == "mine"


def test_force_never_empties_a_folder_that_is_no_run(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years")
    (tmp_path / "report").mkdir()
    with pytest.raises(RunDirError, match="no run directory"):
        Run.create(tmp_path, "", 0, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years" and (tmp_path / "report").is_dir()
    with pytest.raises(RunDirError, match="is a file"):
        Run.create(tmp_path / "thesis.tex", "", 0, force=True)


def test_force_removes_a_link_and_not_what_it_points_to(run: Run, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    (run.path / "export").symlink_to(elsewhere)
    Run.create(run.path, "", 0, force=True)
    assert (elsewhere / "kept").read_text() == "kept" and not (run.path / "export").exists()


@pytest.mark.parametrize("rel", ["../x", "a/../../x", "/etc/passwd", "compress/../../a-sibling/x"])
def test_no_path_leaves_the_run(run: Run, rel: str):
    for use in (run.path_of, run.read_text, run.record, run.remove, lambda r: run.write_text(r, "x")):
        with pytest.raises(RunDirError, match="outside"):
            use(rel)


def test_no_link_leaves_the_run_either(run: Run, tmp_path: Path):
    (run.path / "out").symlink_to(tmp_path)
    with pytest.raises(RunDirError, match="outside"):
        run.write_text("out/x", "x")
    assert not (tmp_path / "x").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "a", "b"]), min_size=1, max_size=8).map("/".join))
def test_a_path_is_inside_or_refused(run: Run, rel: str):
    root = run.path.resolve()
    try:
        found = run.path_of(rel)
    except RunDirError:
        assert not Path(os.path.normpath(root / rel)).is_relative_to(root)
    else:
        assert found.is_relative_to(root)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(run: Run, monkeypatch, call: str):
    run.write_text("a.txt", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_module.os, call, full)
    with pytest.raises(RunDirError, match="No space left") as caught:
        run.write_text("a.txt", "new")
    monkeypatch.undo()
    assert caught.value.hint and (run.path / "a.txt").read_text() == "old"
    assert sorted(p.name for p in run.path.iterdir()) == ["a.txt", "recipe.toml", "run.json"]
    assert Run.open(run.path).read_text("a.txt") == "old"


def test_a_kill_between_file_and_manifest_is_noticed(run: Run, monkeypatch):
    run.write_text("a.txt", "old")
    monkeypatch.setattr(run, "_save", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.write_text("a.txt", "new")
    again = Run.open(run.path)
    with pytest.raises(RunDirError):
        again.read_text("a.txt")  # neither the old file nor one that anybody vouches for: written again by its stage
    again.write_text("a.txt", "new")
    assert Run.open(run.path).read_text("a.txt") == "new"


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="cannot write"):
        atomic_write_bytes(tmp_path / "file" / "x", b"x")


def test_files_of_others_are_recorded_and_removed_with_their_folder(run: Run):
    for rel in ("export/onnx/model.onnx", "export/config.json", "exported.txt"):
        path = run.path / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rel.encode())
    run.record("export")
    run.record("exported.txt")
    assert run.read_bytes("export/onnx/model.onnx") == b"export/onnx/model.onnx" and run.has("export/config.json")
    run.remove("export")
    assert not (run.path / "export").exists() and not run.has("export/config.json")
    assert Run.open(run.path).has("exported.txt")
    with pytest.raises(RunDirError, match="missing"):
        run.record("nothing")


def test_a_process_that_only_reads_writes_nothing(run: Run):
    run.write_text("a.txt", "old")
    before = (run.path / "run.json").read_bytes()
    other = Run.open(run.path)
    other.read_only = True
    other.write_text("a.txt", "new")
    other.mark("compress", "done")
    other.remove("a.txt")
    assert (run.path / "run.json").read_bytes() == before and (run.path / "a.txt").read_text() == "old"


def test_json_has_no_nan(run: Run):
    with pytest.raises(ValueError):
        run.write_json("a.json", {"latency": float("nan")})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_last_write_is_what_is_read(run: Run, first: bytes, second: bytes):
    run.write_bytes("x/y.bin", first)
    run.write_bytes("x/y.bin", second)
    assert Run.open(run.path).read_bytes("x/y.bin") == second
