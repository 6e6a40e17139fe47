"""A latency budget: measured on this machine, or predicted from a device's curves with the cheapest sites first."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

from rmtkd_edge.api.compress import latency_measure
from rmtkd_edge.compress.latency import energy_predictor, measure_ms, predictor
from rmtkd_edge.compress.loop import ordered_sites
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.ranks.budget import fp32_megabytes
from rmtkd_edge.compress.ranks.order import cheapest_first, price
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.hardware import HardwareProfile, curve_macs, load_profile
from rmtkd_edge.config.recipe import Export, Recipe
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError, UserError
from rmtkd_edge.families.base import Family, find_family
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.prices import PricesRecord
from rmtkd_edge.run.reporter import SilentReporter

ENCODER = EncoderSpec("bert", 120, 32, 2, 32, (LayerSpec(2, 16, 16, 64, 0.25),) * 2, 32, ("a", "b"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """Return the file of a device that this machine is not, with its curves."""
    path = tmp_path / "elsewhere.toml"
    sizes = {str(w): (w / 64) ** -0.5 * curve_macs("gemm", w) / 1e6 for w in (8, 64, 512)}
    known = {"profile": "x", "provider": "CPUExecutionProvider", "processor": "elsewhere", "onnxruntime": "1"}
    curves = {**known, "threads": 1, "contended": 0, "conv": {"64": 1.0}, "gemm": {"64": 1.0}, "gemm_sizes": sizes}
    profile = {
        "name": "elsewhere",
        "title": "E",
        "transport": "ssh",
        "comparable": False,
        "threads": 1,
        "alignment": {"gemm": 2, "conv": 2},
        "workloads": {"batches": [1], "seq": [16]},
        "calibration": curves,
        "power": {"idle_watts": 2.0, "active_watts_per_core": 3.0, "source": "a test"},
    }
    path.write_text(tomli_w.dumps(profile))
    return str(path)


def recipe_for(base: dict[str, Any], profile: str, latency_ms: float) -> Recipe:
    data = json.loads(json.dumps(base))
    data["stop"] = {"profile": profile, "latency_ms": latency_ms, "max_drop": 0.3}
    data["compress"] |= {"sites_per_cycle": 2, "rounds": 2}
    return parse_recipe(data, "test")


def device(profile: str) -> tuple[Family, HardwareProfile]:
    return find_family("encoder"), load_profile(profile)


def test_a_site_that_saves_nothing_comes_last() -> None:
    found = [price("a", 1, 0.0, 0.0), price("b", 1, 1.0, 0.5), price("c", 1, 1.0, 2.0), price("d", 1, float("inf"), 1)]
    assert [p.site for p in cheapest_first(found)] == ["c", "b", "a", "d"]
    assert found[0].kl_per_ms is None and found[3].lost_kl is None


def test_the_loop_stops_as_soon_as_the_budget_holds(
    tiny_recipe_dict: dict[str, Any], tiny_data: Path, elsewhere: str, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_recipe_dict, elsewhere, 1.0)
    assert latency_measure(recipe, *device(elsewhere)) is None, "its curves tell; this machine is not asked"
    predict = predictor(*device(elsewhere))
    assert predict is not None
    recipe = recipe_for(tiny_recipe_dict, elsewhere, 0.6 * predict(ENCODER))
    path = tmp_path / "run"
    made = Run.create(path, recipe.to_toml(), 0)
    result = compress_run(made, recipe, data=tiny_data, reporter=SilentReporter())
    assert result.stop == "latency_budget"
    order = Run.open(path).read_record(PricesRecord, layout.PRICES).sites
    costs = [price.kl_per_ms for price in order if price.kl_per_ms is not None]
    assert costs == sorted(costs)
    assert {site.name for site in result.cycles[0].sites} == {price.site for price in order[:2]}


@pytest.mark.parametrize("allocation", ["edge", "kl"])
@pytest.mark.parametrize("budget", ["latency_ms", "energy_mj", "disk_mb"])
def test_one_cut_lands_just_within_its_budget(
    tiny_recipe_dict: dict[str, Any], tiny_data: Path, elsewhere: str, tmp_path: Path, budget: str, allocation: str
) -> None:
    family, profile = device(elsewhere)
    takes = {
        "latency_ms": predictor(family, profile),
        "energy_mj": energy_predictor(family, profile),
        "disk_mb": fp32_megabytes,
    }[budget]
    assert takes is not None
    spec = teacher_spec(tiny_recipe_dict, tiny_data)
    data = json.loads(json.dumps(tiny_recipe_dict))
    most = 0.7 * takes(spec)
    data["stop"] = {"profile": elsewhere, budget: most, "target_reduction": None, "max_drop": 1.0}
    data["compress"] |= {"one_shot": True, "allocation": allocation, "sites": ["stream", "embedding", "ffn"]}
    recipe = parse_recipe(data, "test")
    run = Run.create(tmp_path / "run", recipe.to_toml(), 0)
    result = compress_run(run, recipe, data=tiny_data, reporter=SilentReporter())
    found = load_model(run, layout.BEST).spec
    assert result.stop == budget.rpartition("_")[0] + "_budget"
    assert 0.85 * most < takes(found) <= most  # a tiny model has coarse steps


def teacher_spec(base: dict[str, Any], data: Path) -> Any:
    """Return the shape of the recipe's teacher."""
    recipe = parse_recipe(base, "test")
    ready = prepare(recipe, data)
    return ready.family.load(recipe, ready.dataset.labels, ready.dataset.preprocessing)[0].spec


def test_energy_is_watts_times_time_and_needs_both(
    tiny_recipe_dict: dict[str, Any], tiny_data: Path, elsewhere: str
) -> None:
    family, profile = device(elsewhere)
    ms, mj = predictor(family, profile), energy_predictor(family, profile)
    assert ms is not None and mj is not None
    assert mj(ENCODER) == pytest.approx((2.0 + 3.0) * ms(ENCODER))
    data = json.loads(json.dumps(tiny_recipe_dict))
    data["stop"] = {"profile": "raspberry-pi-5", "energy_mj": 5.0}
    with pytest.raises(RecipeError, match="energy_mj needs"):
        prepare(parse_recipe(data, "test"), tiny_data)


def test_the_order_is_not_priced_twice(tiny_recipe_dict: dict[str, Any], elsewhere: str) -> None:
    kept = PricesRecord((price("b", 1, 1.0, 1.0), price("a", 1, 2.0, 1.0)))
    context: Any = SimpleNamespace(
        recipe=recipe_for(tiny_recipe_dict, elsewhere, 1.0),
        family=find_family("encoder"),
        method=SimpleNamespace(iterative=True),
        store=SimpleNamespace(get_prices=lambda: kept),
        predict_ms=lambda spec: 1.0,
    )
    state: Any = SimpleNamespace(folded=SimpleNamespace(spec=ENCODER))
    assert ordered_sites(context, state) == ["b", "a"]


def test_a_device_elsewhere_without_curves_is_refused_with_the_way_to_them(tiny_recipe_dict: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="needs curves") as caught:
        latency_measure(recipe_for(tiny_recipe_dict, "raspberry-pi-5", 1.0), *device("raspberry-pi-5"))
    assert "rmtkd-edge calibrate --on raspberry-pi-5" in caught.value.hint


def test_a_model_is_measured_as_it_would_be_exported(tiny_recipe_dict: dict[str, Any]) -> None:
    family = find_family("encoder")
    model = family.initialise(family.build(ENCODER), 0)
    assert 0 < measure_ms(family, model, Export(), load_profile("local-cpu")) < 1000
