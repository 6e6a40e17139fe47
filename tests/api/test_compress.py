"""`compress`: the recipe that its options resolve to, and which run directory it works on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmtkd_edge.api.compress import (
    CompressOptions,
    compress_run,
    latency_measure,
    open_or_create,
    resolve_recipe,
    wait_for_run,
)
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.errors import DataError, RecipeError, RunDirError, UserError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter

OUT = Path("out")


@pytest.fixture
def recipe(tiny_recipe_file: Path) -> Recipe:
    return load_recipe(str(tiny_recipe_file))


def test_options_come_before_the_recipe() -> None:
    found = resolve_recipe(CompressOptions("demo", OUT, ("distil.alpha=0.7",), method="plain-kd", seed=5))
    assert (found.distil.alpha, found.compress.method, found.seed) == (0.7, "plain-kd", 5)
    with pytest.raises(RecipeError, match="did you mean `plain-kd`"):
        resolve_recipe(CompressOptions("demo", OUT, method="plain_kd"))


def test_a_device_aligns_and_two_devices_are_refused() -> None:
    assert resolve_recipe(CompressOptions("minilm-sst2", OUT, on="raspberry-pi-5")).stop.profile == "raspberry-pi-5"
    with pytest.raises(RecipeError, match="no hardware profile"):
        resolve_recipe(CompressOptions("minilm-sst2", OUT, on="raspbery-pi-5"))
    with pytest.raises(RecipeError, match="two devices"):
        resolve_recipe(CompressOptions("minilm-sst2", OUT, on="raspberry-pi-5", budget="local-cpu"))
    with pytest.raises(RecipeError, match=r"no \[budgets\]"):
        resolve_recipe(CompressOptions("minilm-sst2", OUT, budget="local-cpu"))


def test_a_budget_brings_the_profiles_limits_where_the_recipe_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "board.toml"
    profile.write_text(
        'name = "board"\ntitle = "A board"\ntransport = "local"\ncomparable = false\n'
        "[alignment]\ngemm = 4\nconv = 4\n[budgets]\nlatency_ms = 12.5\ndisk_mb = 9.0\n",
        encoding="utf-8",
    )
    options = CompressOptions("demo", OUT, ("stop.disk_mb=3",), one_shot=True, budget=str(profile))
    found = resolve_recipe(options)
    assert (found.stop.profile, found.stop.latency_ms, found.stop.disk_mb) == (str(profile), 12.5, 3.0)
    assert found.compress.one_shot
    family = find_family("encoder")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        latency_measure(found, family, load_profile(profile))
    assert latency_measure(load_recipe("demo"), family, None) is None


def test_the_same_recipe_continues_and_another_needs_force(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "a"
    open_or_create(recipe, path, False).write_text("compress/x.txt", "kept")
    assert open_or_create(recipe, path, False).has("compress/x.txt")
    other = recipe.model_copy(update={"seed": 9})
    with pytest.raises(RunDirError, match="another recipe") as caught:
        open_or_create(other, path, False)
    assert "--force" in caught.value.hint
    assert not open_or_create(other, path, True).has("compress/x.txt")


def test_a_finished_run_and_other_data_are_not_continued(
    tmp_path: Path, recipe: Recipe, tiny_recipe_file: Path
) -> None:
    path = tmp_path / "a"
    run = open_or_create(recipe, path, False)
    run.mark("compress", "running", data=str((tmp_path / "mine").resolve()))
    with pytest.raises(RunDirError, match="begun with"):
        compress_run(CompressOptions(str(tiny_recipe_file), path, data=tmp_path / "yours"), SilentReporter())
    run.mark("compress", "done")
    with pytest.raises(RunDirError, match="finished") as caught:
        compress_run(CompressOptions(str(tiny_recipe_file), path, data=tmp_path / "mine"), SilentReporter())
    assert f"rmtkd-edge export {path}" in caught.value.hint


def test_force_replaces_nothing_before_the_call_has_been_checked(
    tmp_path: Path, recipe: Recipe, tiny_recipe_file: Path, tiny_data: Path
) -> None:
    path = tmp_path / "a"
    open_or_create(recipe, path, False).write_text("compress/x.txt", "kept")
    bad: list[tuple[type[Exception], dict[str, Any]]] = [
        (DataError, {"data": tmp_path / "nowhere"}),
        (RecipeError, {"data": tiny_data, "overrides": ("stop.profile=none",)}),
    ]
    for error, changes in bad:
        with pytest.raises(error):
            compress_run(CompressOptions(str(tiny_recipe_file), path, force=True, **changes), SilentReporter())
        assert Run.open(path).read_text("compress/x.txt") == "kept"


def test_processes_that_do_not_write_wait_for_the_one_that_does(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunDirError, match="main process"):
        wait_for_run(tmp_path / "a", "0" * 64, seconds=0.2)
    Run.create(tmp_path / "a", recipe.to_toml(), 0)
    assert open_or_create(recipe, tmp_path / "a", False).manifest["seed"] == 0
    with pytest.raises(RunDirError, match="several processes"):
        open_or_create(recipe, tmp_path / "a", True)
