"""Width, factor or auto: which sites are cut, what is left alone, and what a latency estimate prefers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convnet_sample import small_resnet

from rmtkd_edge.compress import modes
from rmtkd_edge.compress.analyse import SiteSpectrum
from rmtkd_edge.compress.ranks import SiteRank
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families import resnet
from rmtkd_edge.families.spec import EncoderSpec, LayerSpec
from rmtkd_edge.recipe import Compress, Recipe, load_recipe

SPEC = resnet.resnet_spec(50, ("a", "b"), width=16, stem="cifar", image_size=32)


def recipe_with(*changes: str) -> Recipe:
    return load_recipe("resnet18-cifar10", changes)


def chosen(spec, ranks: dict[str, int]) -> list[SiteRank]:
    found = []
    for site in spec.sites():
        if site.name in ranks:
            empty = torch.zeros(1, 0, site.width, dtype=torch.float64)
            spectrum = SiteSpectrum(site, np.ones((1, site.width)), 10, None, empty, None, None, None)
            found.append(SiteRank(spectrum, [], ranks[site.name], ranks[site.name]))
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


def test_fewer_channels_are_never_estimated_slower_and_a_curve_s_slow_widths_are():
    narrow = SPEC.with_ranks({"layer.1.block.0.conv2": 8})
    for multiple in (1, 8):
        assert modes.estimated_latency(narrow, {}, multiple) < modes.estimated_latency(SPEC, {}, multiple)
    curve = {width: float(width**2 * (1 if width % 8 == 0 else 3)) for width in range(33, 65)}
    uneven = SPEC.with_ranks({"layer.1.block.0.conv2": 15})
    assert modes.estimated_latency(uneven, {}, 1) < modes.estimated_latency(SPEC, {}, 1)
    assert modes.estimated_latency(uneven, curve, 1) > modes.estimated_latency(SPEC, curve, 1)


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
