"""Width, factor or auto: which sites are cut, what is left alone, and what a latency estimate prefers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from convnet_sample import small_resnet

from rmtkd_edge.families.resnet.sources import modes
from rmtkd_edge.families.encoder.analyse import SiteSpectrum
from rmtkd_edge.compress.ranks.edge import SiteRank
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.resnet.sources import sources as resnet
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.config.hardware import curve_macs
from rmtkd_edge.config.recipe import Compress, Recipe, load_recipe

SPEC = resnet.resnet_spec(50, ("a", "b"), width=16, stem="cifar", image_size=32)


def recipe_with(*changes: str) -> Recipe:
    return load_recipe("resnet18-cifar10", changes)


def chosen(spec, ranks: dict[str, int]) -> list[SiteRank]:
    found = []
    for site in spec.sites():
        if site.name in ranks:
            empty = torch.zeros(1, 0, site.width, dtype=torch.float64)
            spectrum = SiteSpectrum(site, np.ones((1, site.width)), 10, None, empty, None, None, None)
            found.append(SiteRank(spectrum, [], ranks[site.name], ranks[site.name], 0.5))
    return found


def after(settled: list[SiteRank]) -> dict[str, int]:
    return {c.spectrum.site.name: c.width_after for c in settled}


def test_widths_are_the_default_and_a_site_s_own_mode_comes_before_its_kind_s():
    names = modes.sites_to_cut(SPEC, Compress())
    assert names and not any(name.endswith(".factor") for name in names)
    options = Compress(conv_mode={"inner": "factor", "layer.1.block.0.conv1": "width", "layer.2.stream": "auto"})
    names = modes.sites_to_cut(SPEC, options)
    assert "layer.1.block.0.conv1" in names and "layer.1.block.0.conv1.factor" not in names
    assert "layer.1.block.0.conv2" not in names and "layer.1.block.0.conv2.factor" in names
    assert {"layer.2.stream", "layer.2.block.0.conv3.factor", "layer.2.block.0.downsample.factor"} <= set(names)


def test_a_factor_that_saves_nothing_is_left_out():
    recipe = recipe_with('compress.conv_mode={inner="factor"}')
    ranks = {"layer.1.block.0.conv2.factor": 4, "layer.1.block.1.conv1.factor": 15}
    settled = after(modes.settler(SPEC, recipe, 1)(chosen(SPEC, ranks)))
    assert settled == {"layer.1.block.0.conv2.factor": 4, "layer.1.block.1.conv1.factor": 16}


@pytest.mark.parametrize(("width", "factor", "winner"), [(8, 4, "width"), (15, 2, "factor"), (15, 14, "width")])
def test_auto_takes_what_is_smaller_and_faster(width: int, factor: int, winner: str):
    name = "layer.1.block.0.conv2"
    recipe = recipe_with(f'compress.conv_mode={{"{name}"="auto"}}')
    ranks = after(modes.settler(SPEC, recipe, 1)(chosen(SPEC, {name: width, f"{name}.factor": factor})))
    assert ranks == ({name: width, f"{name}.factor": 16} if winner == "width" else {name: 16, f"{name}.factor": factor})


def test_without_curves_rounded_products_stand_for_time():
    name = "layer.1.block.0.conv2"
    whole, narrow, uneven = (SPEC.with_ranks({name: width}) for width in (16, 8, 15))
    for multiple in (1, 8):
        assert modes.rounded_macs(narrow, multiple) < modes.rounded_macs(whole, multiple)
    assert modes.rounded_macs(uneven, 1) < modes.rounded_macs(whole, 1)
    assert modes.rounded_macs(uneven, 8) == modes.rounded_macs(whole, 8)


@pytest.mark.parametrize(("slope", "winner"), [(0.0, "factor"), (2.0, "width")])
def test_auto_asks_the_device_s_curves(slope: float, winner: str, tmp_path: Path):
    # slope 2: a convolution takes as long however narrow it is, so that two in place of one are never faster
    sizes = {str(w): (w / 64) ** -slope * curve_macs("conv", w) / 1e6 for w in (1, 8, 64, 512)}
    calibration = {
        "profile": "x", "provider": "CPUExecutionProvider", "processor": "elsewhere", "onnxruntime": "1", "threads": 1,
        "contended": 0, "conv": {"64": 1.0}, "gemm": {"64": 1.0}, "conv_sizes": sizes,
    }  # fmt: skip
    profile = {
        "name": "elsewhere", "title": "E", "transport": "ssh", "comparable": False, "threads": 1,
        "alignment": {"gemm": 2, "conv": 2}, "calibration": calibration,
    }  # fmt: skip
    (tmp_path / "elsewhere.toml").write_text(tomli_w.dumps(profile))
    name = "layer.1.block.0.conv2"
    recipe = recipe_with(f'compress.conv_mode={{"{name}"="auto"}}', f'stop.profile="{tmp_path}/elsewhere.toml"')
    ranks = after(modes.settler(SPEC, recipe, 1)(chosen(SPEC, {name: 15, f"{name}.factor": 2})))
    assert ranks == ({name: 15, f"{name}.factor": 16} if winner == "width" else {name: 16, f"{name}.factor": 2})


def test_names_are_checked_all_at_once():
    options = Compress(conv_mode={"iner": "factor", "layer.9.stream": "auto", "inner": "width"})
    with pytest.raises(RecipeError) as caught:
        modes.check(small_resnet(18).spec, options)
    assert "did you mean `inner`" in caught.value.message and "layer.9.stream" in caught.value.message
    with pytest.raises(RecipeError, match="no mode of its own"):
        modes.check(small_resnet(18).spec, Compress(conv_mode={"layer.1.block.0.conv1.factor": "factor"}))
    layer = LayerSpec(2, 4, 4, 16, 0.5)
    encoder = EncoderSpec("bert", 10, 8, 2, 8, (layer,), 8, ("a", "b"))
    with pytest.raises(RecipeError, match="encoder"):
        modes.check(encoder, Compress(conv_mode={"inner": "factor"}))
