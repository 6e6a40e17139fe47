"""Layers that go before any width is cut."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families.encoder.sample import make_batches, make_encoder, make_spec

from rmtkd_edge.compress import depth
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import load_recipe, parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import call, find_family
from rmtkd_edge.families.store import load_model
from rmtkd_edge.methods.base import Pair
from rmtkd_edge.methods.matching import fit_decoders, matched_taps
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task


def with_identities(*layers: int) -> Any:
    """An encoder of four layers of which these give back what they are given."""
    model = make_encoder(make_spec(layers=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(float(name.endswith("weight")))
        for i in layers:
            for part in (model.layers[i].out, model.layers[i].down):
                part.weight.zero_()
                part.bias.zero_()
    return model


@pytest.mark.parametrize("gone", [(0, 2), (1, 3)])
def test_layers_that_do_nothing_go_first(gone):
    model = with_identities(*gone)
    batches = make_batches(model)
    context: Any = SimpleNamespace(
        family=find_family("encoder"),
        task=find_task("text-classification"),
        accelerator=SimpleNamespace(device="cpu", num_processes=1, process_index=0),
        data=SimpleNamespace(judged=lambda: batches),
        report=lambda *args, **facts: None,
    )
    stay = tuple(i for i in range(4) if i not in gone)
    assert depth.layers_that_stay(context, model, 2) == stay
    kept = depth.layers_that_stay(context, model, 1)
    assert set(kept) < set(stay)


def test_states_are_compared_with_what_the_next_layer_was_given():
    teacher, family = with_identities(0, 2), find_family("encoder")
    pair = Pair(family, teacher, family.shortened(teacher, (1, 3)), lambda: make_batches(teacher), layers=(1, 3))
    taps = matched_taps(pair)
    assert taps == {"stream.0": "stream.0", "stream.1": "stream.3", "stream.2": "stream.4"}
    decoders, batch = fit_decoders(pair, taps), make_batches(teacher)[0]
    narrow, wide = {}, {}
    with torch.no_grad():
        call(pair.student, batch, narrow.__setitem__)
        call(teacher, batch, wide.__setitem__)
        for mine, its in taps.items():  # layers that do nothing leave nothing to make up for
            own, other = family.rows(narrow[mine], batch), family.rows(wide[its], batch)
            assert decoders[mine].loss(own, other) < 1e-5
    whole = matched_taps(replace(pair, student=teacher, layers=None))
    assert list(whole) == list(whole.values())


def recipe_of(base: dict[str, Any], **compress: Any) -> Any:
    settings = copy.deepcopy(base)
    settings["model"]["shape"]["layers"] = 3
    settings["compress"] |= {"layers": 2, **compress}
    settings["distil"] |= {"match": 1.0}
    settings["stop"] = {"target_reduction": 0.6, "max_drop": 0.3}
    return parse_recipe(settings, "test")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_recipe_dict, tiny_data):
    recipe, path = recipe_of(tiny_recipe_dict), tmp_path_factory.mktemp("depth") / "run"
    made = Run.create(path, recipe.to_toml(), recipe.seed)
    return made, compress_run(made, recipe, data=tiny_data, reporter=SilentReporter())


def test_the_first_cycle_leaves_layers_out_and_the_next_ones_cut_what_stays(finished):
    run, result = finished
    first, *others = result.cycles
    left = {site.name.split(".")[1] for site in first.sites if site.width_after}
    assert first.accepted and len(left) == 2 and first.steps > 0
    assert first.parameters_after < first.parameters_before == result.teacher.parameters
    assert others and all(site.width_after for cycle in others for site in cycle.sites)
    assert others[0].parameters_before == first.parameters_after
    student = load_model(run, layout.BEST)
    assert len(student.spec.layers) == 2 and result.reduction >= 0.6


def test_a_run_that_is_continued_keeps_its_layers(finished, tiny_recipe_dict, tiny_data):
    run, result = finished
    again = compress_run(run, recipe_of(tiny_recipe_dict), data=tiny_data, reporter=SilentReporter())
    assert [c.parameters_after for c in again.cycles] == [c.parameters_after for c in result.cycles]
    plan = json.loads(run.read_text(layout.cycle_plan(1)))
    assert len(plan["layers"]) == plan["job"]["layers"] == 2


def test_what_cannot_be_followed_is_refused(tiny_recipe_dict, tiny_data, tmp_path):
    with pytest.raises(RecipeError, match=r"compress.layers needs a training"):
        recipe_of(tiny_recipe_dict, one_shot=True)
    with pytest.raises(RecipeError, match=r"compress.layers does not go with the family resnet"):
        load_recipe("demo-images", ["compress.layers=2"])
    for changes, why in (({"layers": 3}, "the model has 3 layers"), ({"method": "plain-kd"}, "plain-kd trains once")):
        recipe = recipe_of(tiny_recipe_dict, **changes)
        recipe = recipe.model_copy(update={"distil": recipe.distil.model_copy(update={"match": 0.0})})
        run = Run.create(tmp_path / why.replace(" ", "-"), recipe.to_toml(), recipe.seed)
        with pytest.raises(RecipeError, match=why):
            compress_run(run, recipe, data=tiny_data, reporter=SilentReporter())
