"""Allocation by divergence: the search only ever gains, and a run keeps its share of parameters while kinds trade."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.compress.ranks.allocation import free_kinds, search
from rmtkd_edge.compress.ranks.edge import shifted
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Site
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run


class Heard:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def event(self, kind, **facts):
        if kind == "note":
            self.notes.append(facts["text"])


@settings(max_examples=50)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=5))
def test_the_search_comes_within_a_step_of_a_bowls_bottom(bottom):
    kinds = [f"kind{i}" for i in range(len(bottom))]
    told = []
    score = lambda offsets: 1.0 + sum((offsets[k] - b) ** 2 for k, b in zip(kinds, bottom, strict=True))
    best = search(score, kinds, lambda offsets, divergence: told.append(divergence))
    assert told == sorted(told, reverse=True) and score(best) == told[-1]
    assert all(abs(best[k] - b) <= 1.0 for k, b in zip(kinds, bottom, strict=True))


def test_where_nothing_gains_nothing_moves():
    assert search(lambda offsets: 0.0, ["a", "b"], lambda *told: None) == {"a": 0.0, "b": 0.0}
    assert search(lambda offsets: float("inf"), ["a", "b"], lambda *told: None) == {"a": 0.0, "b": 0.0}


@given(st.floats(0, 1), st.floats(-6, 6), st.floats(-6, 6))
def test_shifts_add_up_and_keep_the_order(quantile, first, second):
    assert 0 <= shifted(quantile, first) <= 1
    assert shifted(quantile, 0.0) == quantile
    assert shifted(shifted(quantile, first), second) == pytest.approx(shifted(quantile, first + second), abs=1e-9)
    assert (shifted(quantile, first) - quantile) * first >= -1e-12


def run_of(base, data, path, **compress):
    text = json.loads(json.dumps(base))
    text["compress"] |= {"one_shot": True, "sites_per_cycle": 20, **compress}
    text["stop"] |= {"target_reduction": 0.6}
    recipe = parse_recipe(text, "test")
    run, heard = Run.create(path, recipe.to_toml(), recipe.seed), Heard()
    return compress_run(run, recipe, data=data, reporter=heard), heard.notes, run


def test_outputs_move_less_for_as_many_parameters(tiny_recipe_dict, tiny_data, tmp_path):
    sites = ["stream", "embedding", "ffn"]
    plain, _, _ = run_of(tiny_recipe_dict, tiny_data, tmp_path / "a", sites=sites)
    found, notes, run = run_of(tiny_recipe_dict, tiny_data, tmp_path / "b", sites=sites, allocation="kl")
    moved = [float(note.split(" by ")[1].split()[0]) for note in notes if "outputs move by" in note]
    assert moved == sorted(moved, reverse=True) and len(moved) >= 1
    assert found.reduction >= plain.reduction - 0.002
    assert load_model(run, layout.BEST).spec.count_parameters() == found.student.parameters
    (cycle,) = found.cycles
    quantiles = {site.kind: site.quantile for site in cycle.sites}
    assert len(set(quantiles.values())) > 1 or len(moved) == 1  # kinds differ wherever a move was worth it


def test_fixed_ranks_stay_and_one_kind_alone_has_nothing_to_weigh(tiny_recipe_dict, tiny_data, tmp_path):
    result, notes, _ = run_of(
        tiny_recipe_dict, tiny_data, tmp_path / "a", sites=["stream", "ffn"], ranks={"stream": 16}, allocation="kl"
    )
    assert result.ranks["stream"] == 16 and not any("allocation" in note for note in notes)


def test_free_kinds_are_those_that_no_rank_fixes(tiny_recipe_dict):
    recipe = parse_recipe(tiny_recipe_dict | {"compress": {"ranks": {"stream": 8, "layer.0.ffn": 8}}}, "test")
    names = [("stream", "stream"), ("layer.0.ffn", "ffn"), ("layer.1.ffn", "ffn"), ("layer.0.qk", "qk")]
    assert free_kinds([Site(name, kind, 16) for name, kind in names], recipe.compress) == ["ffn", "qk"]


@pytest.mark.parametrize("rule", ["bema", "parallel"])
def test_a_rule_without_quantile_cannot_be_moved(rule, tiny_recipe_dict):
    changed = tiny_recipe_dict | {"analyse": {"rule": rule}, "compress": {"allocation": "kl"}}
    with pytest.raises(RecipeError, match="moves quantiles"):
        parse_recipe(changed, "test")
