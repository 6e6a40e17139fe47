"""The compress stage on images: a small ResNet learns stripes, is cut, keeps its projections, and resumes."""

import numpy as np
import pytest
import torch
from convnet_sample import small_resnet
from PIL import Image
from transformers import AutoImageProcessor

import rmtkd_edge
from rmtkd_edge.budget import latency_ms
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.devices import run_profile
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.export.image_stage import saturates
from rmtkd_edge.export.stage import export_run
from rmtkd_edge.families.ops import fold, projections_of
from rmtkd_edge.families.encoder.spec import count_parameters, ranks_of
from rmtkd_edge.families.store import load_model
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.cli.progress import SilentReporter
from rmtkd_edge.config.recipe import parse_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.cli.tables import comparison_lines
from rmtkd_edge.tasks.image_classification import ImageSplit, batches
from rmtkd_edge.workflow import run_report

RECIPE = {
    "model": {"family": "resnet", "source": "scratch", "resnet": {"depth": 18, "width": 8, "stem": "cifar"}},
    "task": {"name": "stripes", "kind": "image", "augment": "crop"},
    "train": {"epochs": 3, "learning_rate": 3e-3, "batch_size": 32},
    "analyse": {"sample": "pixel", "pixels_per_image": 4, "calibration": 1.0},
    "compress": {"sites_per_cycle": 20, "rounds": 1, "align": False, "warm_start_images": 128, "minimum_rank": 2},
    "distil": {"epochs": 1, "batch_size": 32, "evaluate_every": 1000},
    "stop": {"target_reduction": 0.5, "max_accuracy_drop": 1.0},
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


@pytest.mark.slow
def test_the_loop_cuts_a_resnet_and_keeps_its_projections(tmp_path, stripes):
    run, result = compressed(tmp_path / "a", stripes)
    assert result["stop"] == "target_reduction" and result["reduction"] >= 0.5
    assert result["teacher"]["accuracy"] > 0.9 and result["student"]["accuracy"] > 0.85
    best = load_model(run, "compress/best")
    assert projections_of(best) and count_parameters(best.spec) == result["student"]["parameters"]
    assert ranks_of(best.spec) == result["ranks"]
    x = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(fold(best)(x), best(x), rtol=1e-4, atol=1e-5)
    config = run.read_json("compress/preprocessor_config.json")
    assert config["size"] == {"height": 12, "width": 12} and len(config["image_mean"]) == 3
    facts = export_run(run, threads=1)
    assert facts["verification"]["fold_float64"] <= 1e-9 and facts["verification"]["onnx_float32"] <= 1e-4
    assert facts["variants"]["fp32"]["accuracy"] == pytest.approx(result["student"]["accuracy"], abs=0.02)
    assert facts["fusion"]["expected"] == facts["fusion"]["found"]
    assert facts["variants"]["int8"]["size_bytes"] < 0.5 * facts["variants"]["fp32"]["size_bytes"]
    assert run.has("export/preprocessor_config.json") and run.has("baseline/rmtkd.json")
    with np.load(stripes / "validation.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    found = {name: rmtkd_edge.load(run.path, backend=name).predict(list(images), 20) for name in ("onnx", "torch")}
    np.testing.assert_allclose(found["onnx"].logits, found["torch"].logits, rtol=1e-3, atol=1e-3)
    right = np.array([int(name) for name in found["onnx"].labels]) == labels
    assert right.mean() == pytest.approx(facts["variants"]["fp32"]["accuracy"])
    local = {"quick": True, "min_runs": 10, "min_duration_s": 0.0}
    measured = run_profile(run.path, "local-cpu", SilentReporter(), batches=[1, 4], **local)
    assert {(r["label"], r["load"]["batch"]) for r in measured["results"]} >= {("rmt-kd fp32", 1), ("original int8", 4)}
    assert measured["inputs"].startswith("synthetic images") and all(
        r["load"]["seq"] is None for r in measured["results"]
    )
    assert comparison_lines(measured) and run_report([run.path], None)
    theirs = AutoImageProcessor.from_pretrained(run.path / "export")(list(images[:3]), return_tensors="np")
    spec = rmtkd_edge.load(run.path).spec
    ours = next(batches(ImageSplit(images[:3], labels[:3]), 3, spec.mean, spec.std, None))
    np.testing.assert_allclose(theirs["pixel_values"], ours["pixel_values"].numpy(), atol=1e-5)
    Image.fromarray(images[0]).resize((30, 30)).save(tmp_path / "one.png")
    assert rmtkd_edge.load(run.path, precision="int8").predict([tmp_path / "one.png"]).logits.shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["select", "project"])
def test_one_shot(tmp_path, stripes, conv):
    _, result = compressed(tmp_path / conv, stripes, compress={"one_shot": True, "conv": conv})
    assert 0.5 <= result["reduction"] < 0.6 and result["student"]["accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fold", "random"])
def test_starts_without_a_fit_run_too(tmp_path, stripes, start):
    _, result = compressed(tmp_path / start, stripes, compress={"one_shot": True, "warm_start": start})
    assert result["reduction"] >= 0.5


def test_sites_of_another_family_are_refused(tmp_path, stripes):
    with pytest.raises(RecipeError, match="no sites of ffn"):
        compressed(tmp_path / "run", stripes, compress={"sites": ["ffn"]}, train={"epochs": 1})


def test_a_latency_budget_is_measured_on_images_too():
    recipe = parse_recipe({**RECIPE, "stop": {"latency_ms": 5.0, "profile": "local-cpu"}}, "test")
    net = small_resnet(18)
    assert 0 < latency_ms(net, recipe, load_profile("local-cpu")) < 1000


@pytest.mark.slow
def test_factors_are_cut_trained_and_exported(tmp_path, stripes):
    mode = {**RECIPE["compress"], "conv_mode": {"inner": "factor", "stream": "auto"}, "rounds": 2}
    distil = {**RECIPE["distil"], "through_projection": True, "steps": 4}
    run, result = compressed(tmp_path / "f", stripes, compress=mode, stop={"target_reduction": 0.6}, distil=distil)
    best = load_model(run, "compress/best")
    assert best.spec.factors and result["reduction"] > 0.2
    assert {f"{place}.factor": rank for place, rank in best.spec.factors.items()}.items() <= result["ranks"].items()
    x = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(fold(best)(x), best(x), rtol=1e-4, atol=1e-5)
    facts = export_run(run, threads=1)
    assert facts["verification"]["onnx_float32"] <= 1e-4 and facts["fusion"]["expected"] == facts["fusion"]["found"]


def test_weights_keep_seven_bits_where_the_target_not_the_host_saturates():
    recipe = parse_recipe(RECIPE, "test")
    assert saturates(recipe, ["avx2"]) and not saturates(recipe, ["avx2", "avx-vnni"])
    for profile, wanted in (("raspberry-pi-5", False), ("generic-x86-avx2", True), ("raspberry-pi-4", False)):
        target = parse_recipe({**RECIPE, "stop": {**RECIPE["stop"], "profile": profile}}, "test")
        assert saturates(target, ["avx512-vnni"]) is wanted, profile
