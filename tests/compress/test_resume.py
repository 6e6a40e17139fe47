"""A run that goes on: back to the last finished step where a file was lost, and not on somebody else's run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rmtkd_edge.api.compress import CompressOptions, compress_run
from rmtkd_edge.api.profile import recipe_budget
from rmtkd_edge.api.report import report
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.hashing import digest_of
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.lock import open_to_write
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.reporter import SilentReporter

QUICK = (
    "train.epochs=6",
    "task.train_limit=256",
    "task.validation_limit=64",
    "analyse.minimum_rows=64",
    "analyse.weighting_rows=16",
    "compress.sites=['ffn']",
    "compress.sites_per_cycle=1",
    "compress.warm_start_tokens=200",
    "distil.steps=3",
    "distil.evaluate_every=2",
    "stop.max_drop=1.0",
)


class Stops:
    """Keeps the notes of a stage, and stops it at the event that is named, of the cycle that is named."""

    def __init__(self, kind: str = "", cycle: int = 0, step: int | None = None) -> None:
        self.notes: list[str] = []
        self.wanted, self.cycle = (kind, cycle, step), 0

    def event(self, kind: str, **facts: Any) -> None:
        self.notes += [str(facts["text"])] if kind == "note" else []
        self.cycle += kind == "cycle_start"
        if (kind, self.cycle, facts.get("step")) == self.wanted:
            raise KeyboardInterrupt


def asked(recipe: Path, data: Path, out: Path, **changes: Any) -> CompressOptions:
    return CompressOptions(recipe=str(recipe), out=out, data=data, overrides=QUICK, **changes)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_dict: dict[str, Any]) -> Path:
    import tomli_w

    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_recipe_dict), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Path, tiny_data: Path) -> CompressRecord:
    return compress_run(asked(recipe, tiny_data, tmp_path_factory.mktemp("whole") / "a"), SilentReporter())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, recipe: Path, tiny_data: Path) -> Path:
    """A run that was stopped in the fine-tuning of its second cycle."""
    out = tmp_path_factory.mktemp("begun") / "a"
    with pytest.raises(KeyboardInterrupt):
        compress_run(asked(recipe, tiny_data, out), Stops("validation", 2, step=3))
    return out


def outcome(result: CompressRecord) -> tuple[Any, ...]:
    return result.ranks, result.student, result.stop, [(c.after, c.sites) for c in result.cycles]


LOST = [
    (layout.cycle_training(2, 0), "the last finished step"),
    (f"{layout.cycle_folder(2)}/closed_form", "the start of cycle 2"),
    (f"{layout.cycle_folder(1)}/accepted", "the start of cycle 1"),
    (f"{layout.TEACHER}/{layout.WEIGHTS}", "the start"),
    (f"{layout.PREPROCESSING}/tokenizer.json", "the last finished step"),
]


@pytest.mark.parametrize(("rel", "goes_on", "change"), [*((*lost, "lost") for lost in LOST), (*LOST[0], "cut")])
def test_a_lost_file_takes_a_run_back_to_the_last_finished_step(
    begun: Path,
    whole: CompressRecord,
    recipe: Path,
    tiny_data: Path,
    tmp_path: Path,
    rel: str,
    goes_on: str,
    change: str,
) -> None:
    out = tmp_path / "a"
    shutil.copytree(begun, out)
    files = [name for name in Run.open(out).manifest["files"] if name == rel or name.startswith(f"{rel}/")]
    assert files, sorted(Run.open(out).manifest["files"])
    for name in files[:1] if change == "cut" else files:
        (out / name).unlink()
        if change == "cut":
            (out / name).write_bytes(b"x")
    said = Stops()
    result = compress_run(asked(recipe, tiny_data, out), said)
    assert outcome(result) == outcome(whole)
    assert any(note.startswith(tuple(files)) and note.endswith(f"goes on from {goes_on}") for note in said.notes), (
        said.notes
    )
    Run.open(out).verify()


def test_the_log_of_a_finished_run_is_part_of_it(
    whole: CompressRecord, begun: Path, recipe: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path / "a")
    assert not Run.open(tmp_path / "a").has(layout.LOG)
    compress_run(asked(recipe, tiny_data, tmp_path / "a"), SilentReporter())
    assert Run.open(tmp_path / "a").has(layout.LOG)


def test_a_run_that_another_process_writes_to_is_left_alone(
    begun: Path, recipe: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a"
    shutil.copytree(begun, out)
    with open_to_write(out):
        for force in (False, True):
            with pytest.raises(RunDirError, match="in use by process"):
                compress_run(asked(recipe, tiny_data, out, force=force), SilentReporter())
        with pytest.raises(RunDirError, match="in use by process") as caught:
            report(out)
        assert "--out" in caught.value.hint and report(out, out=tmp_path / "page").html.is_file()
        monkeypatch.setenv("RANK", "1")  # the other processes of the job that holds it go on
        with pytest.raises(KeyboardInterrupt):
            compress_run(asked(recipe, tiny_data, out), Stops("note"))
    assert not (out / "report").exists()


def test_the_content_of_a_profile_file_is_kept_in_the_run(
    recipe: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "profiles/raspberry-pi-5.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace('name = "raspberry-pi-5"', 'name = "mine"'), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = asked(recipe, tiny_data, Path("a"), on="mine.toml", one_shot=True)
    with pytest.raises(KeyboardInterrupt):
        compress_run(options, Stops("cycle_start", 1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept = recipe_budget(Run.open(tmp_path / "a"))
    assert kept is not None and kept.device == "mine"
    monkeypatch.chdir(tmp_path)
    with open("mine.toml", "a", encoding="utf-8") as file:
        file.write("\n# calibrated again\n")
    with pytest.raises(RunDirError, match=r"mine\.toml was changed"):
        compress_run(options, SilentReporter())


def test_a_run_whose_recipe_was_not_written_yet_goes_on(recipe: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        compress_run(asked(recipe, tiny_data, out), Stops("stage"))
    manifest = json.loads((out / "run.json").read_text())
    del manifest["files"][layout.RECIPE]
    (out / "run.json").write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))
    (out / layout.RECIPE).unlink()
    with pytest.raises(KeyboardInterrupt):
        compress_run(asked(recipe, tiny_data, out), Stops("stage"))
    assert layout.read_recipe(Run.open(out)).title == "tiny"


@pytest.mark.parametrize("rel", [layout.TEACHER_TRAINING, f"{layout.cycle_folder(1)}/closed_form"])
def test_what_only_resuming_needs_goes_though_a_kill_came_before_its_removal(
    recipe: Path, tiny_data: Path, tmp_path: Path, whole: CompressRecord, monkeypatch: pytest.MonkeyPatch, rel: str
) -> None:
    remove, out = Run.remove, tmp_path / "a"

    def dies(run: Run, name: str) -> None:
        if name == rel:
            raise KeyboardInterrupt
        remove(run, name)

    monkeypatch.setattr(Run, "remove", dies)
    with pytest.raises(KeyboardInterrupt):
        compress_run(asked(recipe, tiny_data, out), SilentReporter())
    monkeypatch.undo()
    assert outcome(compress_run(asked(recipe, tiny_data, out), SilentReporter())) == outcome(whole)
    files = Run.open(out).manifest["files"]
    assert not [name for name in files if "training" in name or "closed_form" in name]
