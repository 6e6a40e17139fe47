"""The compress stage on images: a small ResNet learns stripes, is cut, and keeps its projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmtkd_edge.compress.latency import measure_ms
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import family_of, find_family, ranks_of
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter

RECIPE = {
    "model": {"family": "resnet", "source": "scratch", "shape": {"depth": 18, "width": 8, "stem": "cifar"}},
    "task": {"name": "stripes", "kind": "image-classification", "augment": "crop"},
    "train": {"epochs": 3, "learning_rate": 3e-3, "batch_size": 32},
    "analyse": {"sample": "pixel", "pixels_per_image": 4, "calibration": 1.0},
    "compress": {"sites_per_cycle": 20, "rounds": 1, "align": False, "warm_start_images": 128, "minimum_rank": 2},
    "distil": {"epochs": 1, "batch_size": 32, "evaluate_every": 1000},
    "stop": {"target_reduction": 0.5, "max_drop": 1.0},
}


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Images of 12 pixels a side with vertical (0) or horizontal (1) stripes under noise."""
    folder, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for name, count in (("train", 320), ("validation", 96)):
        labels = rng.integers(0, 2, count)
        waves = 60 * np.sign(np.sin(np.arange(12) * 2 + rng.uniform(0, 6, (count, 1))))
        images = np.where(labels[:, None, None] == 0, waves[:, None, :], waves[:, :, None])
        images = images[..., None] + 128 + rng.normal(0, 30, (count, 12, 12, 3))
        np.savez(folder / f"{name}.npz", images=images.clip(0, 255).astype(np.uint8), labels=labels)
    return folder


def compressed(path, data, **changes):
    tables = {**RECIPE, **{k: {**RECIPE.get(k, {}), **v} for k, v in changes.items()}}
    recipe = parse_recipe(tables, "test")
    run = Run.create(path, recipe.to_toml(), 0)
    return run, compress_run(run, recipe, data=data, reporter=SilentReporter())


def assert_folds(net):
    x = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(family_of(net).fold(net)(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_loop_cuts_a_resnet_and_keeps_its_projections(tmp_path, stripes):
    run, result = compressed(tmp_path / "a", stripes)
    assert result.stop == "target_reduction" and result.reduction >= 0.5
    assert result.teacher.validation.value > 0.9 and result.student.validation.value > 0.85
    best = load_model(run, layout.BEST)
    assert family_of(best).projections(best) and best.spec.count_parameters() == result.student.parameters
    assert ranks_of(best.spec) == result.ranks
    assert_folds(best)
    config = run.read_json(f"{layout.PREPROCESSING}/preprocessor_config.json")
    assert config["size"] == {"height": 12, "width": 12} and len(config["image_mean"]) == 3
    assert any("held out" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["select", "project"])
def test_one_shot(tmp_path, stripes, channels):
    _, result = compressed(tmp_path / channels, stripes, compress={"one_shot": True, "channels": channels})
    assert 0.5 <= result.reduction < 0.6 and result.student.validation.value > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("start", [{"warm_start": "fold", "one_shot": True}, {"method": "plain-kd"}])
def test_starts_without_a_fit_run_too(tmp_path, stripes, start):
    run, result = compressed(tmp_path / "r", stripes, compress=start)
    assert result.reduction >= 0.5 and ranks_of(load_model(run, layout.BEST).spec) == result.ranks


def test_sites_of_another_family_are_refused(tmp_path, stripes):
    with pytest.raises(RecipeError, match="no kind `ffn`"):
        compressed(tmp_path / "run", stripes, compress={"sites": ["ffn"]}, train={"epochs": 1})


def test_a_latency_budget_is_measured_on_images_too(tmp_path, stripes):
    recipe, family = parse_recipe(RECIPE, "test"), find_family("resnet")
    ready = prepare(recipe, stripes)
    net, _ = family.load(recipe, ready.dataset.labels, ready.dataset.preprocessing)
    assert 0 < measure_ms(family, net, Export(), load_profile("local-cpu")) < 1000


@pytest.mark.slow
def test_factors_are_cut_and_trained(tmp_path, stripes):
    mode = {"mode": {"inner": "factor", "stream": "auto"}, "rounds": 2}
    distil = {"through_projection": True, "steps": 4}
    run, result = compressed(tmp_path / "f", stripes, compress=mode, stop={"target_reduction": 0.6}, distil=distil)
    best = load_model(run, layout.BEST)
    assert best.spec.factors and result.reduction > 0.2
    assert {f"{place}.factor": rank for place, rank in best.spec.factors.items()}.items() <= result.ranks.items()
    assert_folds(best)
