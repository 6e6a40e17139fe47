"""A latency budget of a device elsewhere: predicted from its curves, cheapest sites first, and kept when resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.budget import latency_measure
from rmtkd_edge.families.encoder.cost import predicted_ms, predictor, products
from rmtkd_edge.compress.loop import ordered_sites
from rmtkd_edge.compress.ranks.order import Price
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.resnet.spec import BlockSpec, ConvNetSpec, StageSpec
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, list_sites
from rmtkd_edge.config.hardware import Calibration, curve_macs
from rmtkd_edge.cli.progress import SilentReporter
from rmtkd_edge.config.recipe import parse_recipe
from rmtkd_edge.run.directory import Run

LAYERS = (LayerSpec(2, 16, 16, 128, 0.25), LayerSpec(2, 16, 16, 128, 0.25))
ENCODER = EncoderSpec("bert", 100, 32, 2, 32, LAYERS, 32, ("a", "b"))
STAGES = (StageSpec(16, (BlockSpec((16,)),)), StageSpec(32, (BlockSpec((32,), 2, True),)))
CONVNET = ConvNetSpec("basic", "cifar", 16, STAGES, ("a", "b"), image_size=32)


def curves(ns: float = 1.0, slope: float = 0.0) -> Calibration:
    """A device that takes `ns` nanoseconds a multiply-accumulate at width 64, and less by the power `slope` beyond."""
    made: dict[str, Any] = {}
    for kind in ("conv", "gemm"):
        sizes = {w: ns * (w / 64) ** -slope * curve_macs(kind, w) / 1e6 for w in (8, 64, 512)}
        made |= {kind: {64: 1.0}, f"{kind}_sizes": sizes}
    return Calibration(
        profile="x",
        provider="CPUExecutionProvider",
        processor="elsewhere",
        onnxruntime="1",
        threads=1,
        contended=0,
        **made,
    )


@given(st.sampled_from(["conv", "gemm"]), st.floats(1, 5000), st.floats(0.01, 100), st.floats(0, 0.9))
def test_between_its_points_a_curve_is_read_by_powers(kind: Any, width: float, ns: float, slope: float) -> None:
    expected = ns * (min(max(width, 8), 512) / 64) ** -slope
    assert curves(ns, slope).ns_per_mac(kind, width) == pytest.approx(expected, rel=1e-6)


@given(st.floats(8, 512), st.floats(1, 20), st.integers(1, 10_000))
def test_few_pixels_share_the_cost_of_the_weights(width: float, factor: float, pixels: int) -> None:
    few = {w: factor * curve_macs("conv_few", w) / 1e6 for w in (8, 64, 512)}
    found = curves(1.0).model_copy(update={"conv_few_sizes": few})
    assert found.ns_per_mac("conv", width, 16) == pytest.approx(factor)
    assert found.ns_per_mac("conv", width, 8 * 16 * 16) == pytest.approx(1.0)
    assert found.ns_per_mac("conv", width, pixels) >= found.ns_per_mac("conv", width, pixels + 1)
    whole = pixels * found.ns_per_mac("conv", width, pixels)  # more pixels never take less time
    assert whole <= (pixels + 1) * found.ns_per_mac("conv", width, pixels + 1) * (1 + 1e-12)


def test_what_is_no_product_is_counted_by_its_elements() -> None:
    device = curves().model_copy(update={"ns_per_element": {"gelu": 2.0, "softmax": 3.0, "norm": 5.0}})
    more = predicted_ms(ENCODER, device, 16) - predicted_ms(ENCODER, curves(), 16)
    assert more == pytest.approx(1e-6 * 16 * (2.0 * 256 + 3.0 * 2 * 2 * 16 + 5.0 * 5 * 32))


def test_a_calibration_without_sizes_says_so() -> None:
    old = curves().model_copy(update={"gemm_sizes": {}})
    with pytest.raises(ValueError, match="gemm_sizes"):
        old.ns_per_mac("gemm", 64)


@pytest.mark.parametrize("spec", [ENCODER, CONVNET], ids=["encoder", "convnet"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_narrower_is_never_slower_and_a_faster_device_is_faster(spec: Any, data: st.DataObject) -> None:
    site = data.draw(st.sampled_from([s for s in list_sites(spec) if not s.latent]))
    rank = data.draw(st.integers(1, site.width))
    narrow, slope = spec.with_ranks({site.name: rank}), data.draw(st.floats(0, 0.9))
    before, after = (predicted_ms(s, curves(1.0, slope), 16) for s in (spec, narrow))
    assert 0 < after <= before * (1 + 1e-9)
    assert predicted_ms(spec, curves(2.0, slope), 16) == pytest.approx(2 * before)


def test_the_products_are_the_linear_layers_and_the_scores() -> None:
    tokens = 16
    per_layer = 4 * 32 * 32 + 2 * 32 * 128 + 2 * 32 * tokens
    assert sum(m * n for m, n in products(ENCODER, tokens)) == 2 * per_layer


def test_a_site_that_saves_nothing_comes_last() -> None:
    found = [Price("a", 1, 0.0, 0.0), Price("b", 1, 1.0, 0.5), Price("c", 1, 1.0, 2.0)]
    assert [p.site for p in sorted(found, key=lambda p: p.per_ms)] == ["c", "b", "a"]
    assert found[0].facts()["kl_per_ms"] is None


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """Return the file of a device that this machine is not, with its curves."""
    path = tmp_path / "elsewhere.toml"
    profile = {
        "name": "elsewhere", "title": "E", "transport": "ssh", "comparable": False, "threads": 1,
        "alignment": {"gemm": 2, "conv": 2}, "loads": {"batches": [1], "seq": [16]},
        "calibration": json.loads(curves(1.0, 0.5).model_dump_json()),
    }  # fmt: skip
    path.write_text(tomli_w.dumps(profile))
    return str(path)


def recipe_for(base: dict[str, Any], profile: str, latency_ms: float) -> Any:
    data = json.loads(json.dumps(base))
    data["stop"] = {"profile": profile, "latency_ms": latency_ms, "max_accuracy_drop": 0.3}
    data["compress"] |= {"sites_per_cycle": 2, "rounds": 2}
    return parse_recipe(data, "test")


def test_the_loop_stops_as_soon_as_the_budget_holds(
    tiny_recipe_dict: dict[str, Any], tiny_data: Path, elsewhere: str, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_recipe_dict, elsewhere, 1.0)
    assert latency_measure(recipe) is None, "its curves tell; this machine is not asked"
    predict = predictor(recipe)
    assert predict is not None
    teacher = EncoderSpec("bert", 120, 32, 2, 32, (LayerSpec(2, 16, 16, 64, 0.25),) * 2, 32, ("a", "b"))
    budget = 0.6 * predict(teacher)
    recipe = recipe_for(tiny_recipe_dict, elsewhere, budget)
    path = tmp_path / "run"
    result = compress_run(
        Run.create(path, recipe.to_toml(), 0), recipe, data=tiny_data, reporter=SilentReporter()
    )  # fmt: skip
    assert result["stop"] == "latency_budget"
    run = Run.open(path)
    order = run.read_json("compress/prices.json")["sites"]
    costs = [price["kl_per_ms"] for price in order if price["kl_per_ms"] is not None]
    assert costs == sorted(costs)
    cut = [site["name"] for site in result["cycles"][0]["sites"]]
    assert set(cut) == {price["site"] for price in order[:2]}


def test_the_order_is_not_priced_twice(tiny_recipe_dict: dict[str, Any], elsewhere: str) -> None:
    class Kept:
        def get_order(self) -> list[dict[str, Any]]:
            return [{"site": "b"}, {"site": "a"}]

    class State:
        class folded:
            spec = ENCODER

    class Context:
        recipe, store = recipe_for(tiny_recipe_dict, elsewhere, 1.0), Kept()
        predict_latency_ms = staticmethod(lambda spec: 1.0)

    assert ordered_sites(Context(), State()) == ["b", "a"]  # type: ignore[arg-type]


def test_a_device_elsewhere_without_curves_is_refused_with_the_way_to_them(tiny_recipe_dict: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="wants curves") as caught:
        latency_measure(recipe_for(tiny_recipe_dict, "raspberry-pi-5", 1.0))
    assert "rmtkd-edge calibrate --on raspberry-pi-5" in caught.value.hint
