"""Width, factor or auto: which sites are cut, what is left alone, and what a latency estimate prefers."""

from __future__ import annotations

import pytest
from families.resnet.sample import small_resnet

from rmtkd_edge.config.hardware import Calibration, curve_macs
from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.resnet import FAMILY, modes
from rmtkd_edge.families.resnet.sources import resnet_spec

SPEC = resnet_spec(50, ("a", "b"), width=16, stem="cifar", image_size=32)
NAME = "layer.1.block.0.conv2"


def test_widths_are_the_default_and_a_site_s_own_mode_comes_before_its_kind_s() -> None:
    names = modes.sites_to_cut(SPEC, Compress())
    assert names and not any(name.endswith(".factor") for name in names)
    options = Compress(mode={"inner": "factor", "layer.1.block.0.conv1": "width", "layer.2.stream": "auto"})
    names = modes.sites_to_cut(SPEC, options)
    assert "layer.1.block.0.conv1" in names and "layer.1.block.0.conv1.factor" not in names
    assert "layer.1.block.0.conv2" not in names and "layer.1.block.0.conv2.factor" in names
    assert {"layer.2.stream", "layer.2.block.0.conv3.factor", "layer.2.block.0.downsample.factor"} <= set(names)


def test_without_modes_widths_stay_as_chosen() -> None:
    assert modes.settle(SPEC, Compress(), None, 8)({NAME: 3}) == {NAME: 3}


def test_a_factor_that_saves_nothing_is_left_out() -> None:
    ranks = {f"{NAME}.factor": 4, "layer.1.block.1.conv1.factor": 15}
    settled = modes.settle(SPEC, Compress(mode={"inner": "factor"}), None, 1)(ranks)
    assert settled == {f"{NAME}.factor": 4, "layer.1.block.1.conv1.factor": 16}
    assert SPEC.with_ranks(settled).factors == {NAME: 4}


@pytest.mark.parametrize(("width", "factor", "winner"), [(8, 4, "width"), (15, 2, "factor"), (15, 14, "width")])
def test_auto_takes_what_is_smaller_and_faster(width: int, factor: int, winner: str) -> None:
    ranks = modes.settle(SPEC, Compress(mode={NAME: "auto"}), None, 1)({NAME: width, f"{NAME}.factor": factor})
    assert ranks == ({NAME: width, f"{NAME}.factor": 16} if winner == "width" else {NAME: 16, f"{NAME}.factor": factor})


def test_without_curves_rounded_products_stand_for_time() -> None:
    whole, narrow, uneven = (SPEC.with_ranks({NAME: width}) for width in (16, 8, 15))
    for multiple in (1, 8):
        assert modes.rounded_macs(narrow, multiple) < modes.rounded_macs(whole, multiple)
    assert modes.rounded_macs(uneven, 1) < modes.rounded_macs(whole, 1)
    assert modes.rounded_macs(uneven, 8) == modes.rounded_macs(whole, 8)


@pytest.mark.parametrize(("slope", "winner"), [(0.0, "factor"), (2.0, "width")])
def test_auto_asks_the_device_s_curves(slope: float, winner: str) -> None:
    # slope 2: a convolution takes as long however narrow it is, so that two in place of one are never faster
    device = Calibration(
        profile="x",
        provider="CPUExecutionProvider",
        processor="elsewhere",
        onnxruntime="1",
        threads=1,
        contended=0,
        conv={64: 1.0},
        gemm={64: 1.0},
        conv_sizes={w: (w / 64) ** -slope * curve_macs("conv", w) / 1e6 for w in (1, 8, 64, 512)},
    )
    settled = FAMILY.settle(SPEC, Compress(mode={NAME: "auto"}), lambda spec: FAMILY.predict_ms(spec, device, 1), 1)
    ranks = settled({NAME: 15, f"{NAME}.factor": 2})
    assert ranks == ({NAME: 15, f"{NAME}.factor": 16} if winner == "width" else {NAME: 16, f"{NAME}.factor": 2})


def test_a_factor_has_no_mode_of_its_own() -> None:
    spec = small_resnet(18).spec
    with pytest.raises(RecipeError, match="no mode of its own"):
        modes.sites_to_cut(spec, Compress(mode={"layer.1.block.0.conv1.factor": "factor"}))
