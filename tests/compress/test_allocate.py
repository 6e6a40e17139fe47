"""Allocation by divergence: the search only ever gains, and a run keeps its share of parameters while sites trade."""

import json
import math
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.compress.ranks.allocation import (
    PATIENCE,
    Move,
    allocated,
    dimensions,
    free_sites,
    offsets_of,
    search,
)
from rmtkd_edge.compress.ranks.edge import CLOSE, land_on_target, lowest_quantile, shifted
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Site
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.trials import TrialsRecord


class Heard:
    """A reporter that keeps what it is told; Ctrl-C comes after so many trials."""

    def __init__(self, patience=None):
        self.notes, self.trials, self.patience = [], 0, patience

    def event(self, kind, **facts):
        if kind == "note":
            self.notes.append(facts["text"])
        self.trials += kind == "trial"
        if self.trials == self.patience:
            raise KeyboardInterrupt


@settings(max_examples=50)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=5))
def test_the_search_comes_within_a_step_of_a_bowls_bottom(bottom):
    moves = [Move(f"kind{i}", "level") for i in range(len(bottom))]
    told = []
    score = lambda at: 1.0 + sum((at[move] - b) ** 2 for move, b in zip(moves, bottom, strict=True))
    best = search(score, moves, lambda at, divergence: told.append(divergence), 500, patience=500)
    assert told == sorted(told, reverse=True) and score(best) == told[-1]
    assert all(abs(best[move] - b) <= 1.0 for move, b in zip(moves, bottom, strict=True))


@given(st.integers(1, 20))
def test_no_more_is_tried_than_allowed(trials):
    seen = []
    search(
        lambda at: seen.append(at) or -len(seen), [Move("a", "level"), Move("b", "depth")], lambda *told: None, trials
    )
    assert len(seen) == trials


@pytest.mark.parametrize("count", [2, 6, 9])
def test_a_search_looks_at_every_dimension_and_ends_where_too_little_is_gained(count):
    moves = [Move(f"kind{i}", "level") for i in range(count)]
    seen = []
    search(lambda at: seen.append(at) or 1.0 - 0.001 * len(seen), moves, lambda *told: None, 500)
    assert all(any(at[move] for at in seen) for move in moves)
    assert len(seen) <= max(PATIENCE + 1, 1 + 2 * count)
    assert search(lambda at: math.exp(at[moves[-1]]), moves, lambda *told: None, 40)[moves[-1]] < -2


def test_where_nothing_gains_nothing_moves():
    moves = [Move("a", "level"), Move("a", "depth")]
    for value in (0.0, float("inf")):
        assert search(lambda at, value=value: value, moves, lambda *told: None, 45) == dict.fromkeys(moves, 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_that_changes_nothing_is_doubled(sign):
    moves = [Move("factor", "level"), Move("stream", "level")]  # no factor before its level is 2
    score = lambda at: 1.0 + at[moves[1]] ** 2 if sign * at[moves[0]] < 2 else 0.5 + at[moves[1]] ** 2
    best = search(score, moves, lambda *told: None, 30)
    assert score(best) == 0.5


def test_kinds_trade_by_level_and_layers_by_depth():
    sites = [Site("stream", "stream", 16), *(Site(f"layer.{i}.ffn", "ffn", 32, layer=i) for i in range(3))]
    moves = dimensions(sites)
    assert moves == [Move("stream", "level"), Move("ffn", "level"), Move("ffn", "depth")]
    assert dimensions(sites[1:]) == [Move("ffn", "depth")] and dimensions(sites[:1]) == []
    offsets = offsets_of(sites, {Move("stream", "level"): 2.0, Move("ffn", "level"): 1.0, Move("ffn", "depth"): 1.0})
    assert offsets == {"stream": 2.0, "layer.0.ffn": 0.5, "layer.1.ffn": 1.0, "layer.2.ffn": 1.5}


@given(st.floats(0, 1), st.floats(-6, 6), st.floats(-6, 6))
def test_shifts_add_up_and_keep_the_order(quantile, first, second):
    assert 0 <= shifted(quantile, first) <= 1
    assert shifted(quantile, 0.0) == quantile
    assert shifted(shifted(quantile, first), second) == pytest.approx(shifted(quantile, first + second), abs=1e-9)
    assert (shifted(quantile, first) - quantile) * first >= -1e-12


@dataclass(frozen=True)
class Stepping:
    """A site that gives up `step` of the parameters whenever the quantile passes one of `at`."""

    name: str
    step: float
    at: tuple[float, ...]


@dataclass(frozen=True)
class Stepped:
    name: str
    width_after: int
    quantile: float


STEPPING = st.lists(
    st.tuples(st.floats(0.0005, 0.03), st.sets(st.integers(1, 100), min_size=1, max_size=8)), min_size=1, max_size=8
)


@given(STEPPING, st.floats(0.05, 0.95))
def test_a_landing_is_close_unless_no_site_can_give_back_a_step(drawn, share):
    quantile = lambda place, site: (8 * place + site) / 900  # no two sites step at one
    sites = [Stepping(str(i), step, tuple(quantile(n, i) for n in at)) for i, (step, at) in enumerate(drawn)]

    def choose(at, held):
        used = {site.name: held.get(site.name, at) for site in sites}
        return [Stepped(s.name, sum(a >= used[s.name] for a in s.at), used[s.name]) for s in sites]

    removed = lambda chosen: sum((len(s.at) - c.width_after) * s.step for s, c in zip(sites, chosen, strict=True))
    target = share * removed(choose(1.0, {}))
    used, chosen = land_on_target(choose, removed, target, 1.0)
    at, at_one_quantile, _ = lowest_quantile(lambda at: choose(at, {}), removed, target, 1.0)
    assert target <= removed(chosen) <= removed(at_one_quantile) and used == at
    if removed(chosen) - target > CLOSE:
        given_up = [s for c, s in zip(chosen, sites, strict=True) if c.width_after < len(s.at)]
        assert all(removed(chosen) - site.step < target + 1e-9 for site in given_up)


@dataclass(frozen=True)
class TwoRules:
    """Ranks by two rules of two kinds of sites; what one of them costs at one quantile, it costs everywhere."""

    context: Any
    costs: dict[str, float]
    step: dict[str, int] = field(default_factory=dict)  # of widths
    budgets = ()

    @property
    def choose(self):
        return {rule: partial(self.ranks, rule) for rule in self.costs}

    def ranks(self, rule, at, offsets, held):
        quantiles = {kind: held.get(kind, shifted(at, offsets.get(kind, 0.0))) for kind in ("stream", "ffn")}
        step = self.step.get(rule, 1)
        return [
            Ranked(SimpleNamespace(site=Site(k, k, 64)), k, rule, int(64 * (1 - q)) // step * step, q)
            for k, q in quantiles.items()
        ]

    def left(self, chosen):
        return 1 - sum(c.width_after for c in chosen) / 128

    def divergence(self, chosen):
        return self.costs[chosen[0].rule] * (1 + chosen[0].width_after / 64)


@dataclass(frozen=True)
class Ranked:
    spectrum: Any
    name: str
    rule: str
    width_after: int
    quantile: float


@pytest.mark.parametrize(
    "costs", [{"window": 1.0, "explained-variance": 3.0}, {"window": 3.0, "explained-variance": 1.0}]
)
def test_the_search_starts_from_the_better_rule_and_keeps_the_budget(costs, tiny_recipe_dict):
    heard = Heard()
    context = SimpleNamespace(recipe=parse_recipe(tiny_recipe_dict, "test"), report=heard.event)
    trials = TwoRules(context, costs)
    picked = trials.ranks("window", 0.5, {}, {})
    for most in (2, 12):
        found = allocated(trials, picked, most)
        assert costs[found[0].rule] == 1.0 and trials.left(found) >= trials.left(picked)
        assert trials.divergence(found) <= min(
            map(trials.divergence, (picked, trials.ranks(found[0].rule, 0.5, {}, {})))
        )
    assert allocated(trials, picked, 1)[0].rule == "window"  # a single trial: the recipe's own
    wasteful = replace(trials, step={"explained-variance": 48})
    assert allocated(wasteful, trials.ranks("window", 0.4, {}, {}), 12)[0].rule == "window"  # whatever it costs


def run_of(base, data, path, patience=None, **compress):
    text = json.loads(json.dumps(base))
    text["compress"] |= {"one_shot": True, "sites_per_cycle": 20, **compress}
    text["stop"] |= {"target_reduction": 0.6}
    recipe = parse_recipe(text, "test")
    run, heard = Run.create(path, recipe.to_toml(), recipe.seed), Heard(patience)
    return compress_run(run, recipe, data=data, reporter=heard), heard.notes, run


def test_outputs_move_less_for_as_many_parameters(tiny_recipe_dict, tiny_data, tmp_path):
    sites = ["stream", "embedding", "ffn"]
    plain, _, _ = run_of(tiny_recipe_dict, tiny_data, tmp_path / "a", sites=sites)
    found, notes, run = run_of(tiny_recipe_dict, tiny_data, tmp_path / "b", sites=sites, allocation="kl")
    moved = [float(note.split("teacher ")[1].split()[0]) for note in notes if "allocation: divergence from" in note]
    assert moved == sorted(moved, reverse=True) and len(moved) >= 1
    assert min(found.reduction, plain.reduction) >= 0.6
    assert load_model(run, layout.BEST).spec.count_parameters() == found.student.parameters
    (cycle,) = found.cycles
    quantiles = {site.kind: site.quantile for site in cycle.sites}
    assert len(set(quantiles.values())) > 1 or len(moved) == 1  # kinds differ wherever a move was worth it


def test_an_interrupted_search_goes_on_where_it_stood(tiny_recipe_dict, tiny_data, tmp_path):
    options = {"sites": ["stream", "embedding", "ffn"], "allocation": "kl"}
    whole, _, first = run_of(tiny_recipe_dict, tiny_data, tmp_path / "a", **options)
    tried = first.read_record(TrialsRecord, layout.cycle_trials(1)).trials
    with pytest.raises(KeyboardInterrupt):
        run_of(tiny_recipe_dict, tiny_data, tmp_path / "b", patience=3, **options)
    run, heard = Run.open(tmp_path / "b"), Heard()
    again = compress_run(run, layout.read_recipe(run), data=tiny_data, reporter=heard)
    assert run.read_record(TrialsRecord, layout.cycle_trials(1)).trials == tried
    assert heard.trials == len(tried) - 3
    teacher = load_model(first, layout.TEACHER).spec
    shapes = {str(teacher.with_ranks(trial.widths)) for trial in tried}
    assert len(shapes) == len(tried) <= Compress().trials  # a factor wider than its site is none: no trial of its own
    assert again.ranks == whole.ranks


def test_no_more_trials_than_the_recipe_allows(tiny_recipe_dict, tiny_data, tmp_path):
    def tried(name, **options):
        sites = ["stream", "embedding", "ffn"]
        _, _, run = run_of(tiny_recipe_dict, tiny_data, tmp_path / name, sites=sites, allocation="kl", **options)
        return run.read_record(TrialsRecord, layout.cycle_trials(1)).trials

    fewer, usual = tried("fewer", trials=3), tried("usual")
    assert len(usual) > len(fewer) and usual[:3] == fewer


def test_fixed_ranks_stay_and_one_site_alone_has_nothing_to_weigh(tiny_recipe_dict, tiny_data, tmp_path):
    ranks, sites = {"ffn": 16}, ["stream", "ffn"]
    result, notes, _ = run_of(tiny_recipe_dict, tiny_data, tmp_path / "a", sites=sites, ranks=ranks, allocation="kl")
    assert result.ranks["layer.0.ffn"] == 16 and not any("allocation" in note for note in notes)


def test_free_sites_are_those_that_no_rank_fixes(tiny_recipe_dict):
    recipe = parse_recipe(tiny_recipe_dict | {"compress": {"ranks": {"stream": 8, "layer.0.ffn": 8}}}, "test")
    names = [("stream", "stream"), ("layer.0.ffn", "ffn"), ("layer.1.ffn", "ffn"), ("layer.0.qk", "qk")]
    free = free_sites([Site(name, kind, 16) for name, kind in names], recipe.compress)
    assert [site.name for site in free] == ["layer.1.ffn", "layer.0.qk"]


@pytest.mark.parametrize("rule", ["bema", "parallel"])
def test_a_rule_without_quantile_cannot_be_moved(rule, tiny_recipe_dict):
    changed = tiny_recipe_dict | {"analyse": {"rule": rule}, "compress": {"allocation": "kl"}}
    with pytest.raises(RecipeError, match="moves quantiles"):
        parse_recipe(changed, "test")
