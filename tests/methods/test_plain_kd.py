"""Plain distillation: widths by one factor, random weights, one cycle from the teacher, the same run directory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import family_of, ranks_of
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.families.store import load_model
from rmtkd_edge.methods.base import align, reduction
from rmtkd_edge.methods.plain_kd import METHOD
from rmtkd_edge.methods.students import largest_factor
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter

SPEC = EncoderSpec("bert", 300, 64, 2, 64, (LayerSpec(4, 16, 16, 256, 0.25),) * 3, 64, ("a", "b"))


def recipe_of(base: dict[str, Any], **tables: dict[str, Any]) -> Any:
    changed = {name: {**base.get(name, {}), **table} for name, table in tables.items()}
    compress = {**base["compress"], **tables.get("compress", {}), "method": "plain-kd"}
    return parse_recipe({**base, **changed, "compress": compress}, "test")


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0.05, 0.9), multiple=st.sampled_from([1, 4, 8]))
def test_widths_meet_the_target_and_no_wider_ones_do(tiny_recipe_dict, target, multiple):
    recipe = recipe_of(tiny_recipe_dict, stop={"target_reduction": target})
    widths = METHOD.widths(SPEC, FAMILY, recipe, multiple)
    assert widths is not None and "stop.target_reduction" in widths.note
    before = SPEC.count_parameters()
    assert reduction(SPEC, widths.by_site, before) >= target
    for site in SPEC.sites():
        if site.name in widths.by_site:
            assert site.heads * widths.by_site[site.name] % multiple == 0
    factor = float(widths.note.split("scaled by ")[1].split()[0])
    shares = [widths.by_site[s.name] / s.width for s in SPEC.sites() if s.name in widths.by_site]
    assert min(shares) >= factor - 2e-3 and set(widths.by_site) == set(FAMILY.sites_to_cut(SPEC, recipe.compress))


def test_more_than_all_that_can_go_is_refused_with_the_share_that_can(tiny_recipe_dict):
    recipe = recipe_of(tiny_recipe_dict, stop={"target_reduction": 0.999})
    with pytest.raises(RecipeError, match="the narrowest") as caught:
        METHOD.widths(SPEC, FAMILY, recipe, 8)
    assert "--set stop.target_reduction=0." in caught.value.hint


@given(st.floats(0, 1))
def test_the_largest_factor_is_found(edge):
    found = largest_factor(lambda factor: factor <= edge)
    assert found is not None and edge - 1e-5 <= found <= edge
    assert largest_factor(lambda factor: False) is None


@given(st.integers(1, 600), st.integers(1, 512), st.sampled_from([1, 2, 4, 12]), st.sampled_from([1, 4, 8, 16]))
def test_aligned_ranks_are_multiples_within_the_width(rank, width, heads, multiple):
    found = align(rank, width, heads, multiple, 1)
    assert min(rank, width) <= found <= width
    assert found == width or found * heads % multiple == 0


@pytest.mark.parametrize(
    "tables",
    [{"compress": {"one_shot": True}}, {"compress": {"allocation": "kl"}}, {"distil": {"match": 1.0}}],
    ids=["one shot", "allocation", "matching"],
)
def test_what_needs_closed_forms_is_refused_before_work_starts(tables, tiny_recipe_dict, tiny_data):
    with pytest.raises(RecipeError, match="plain-kd"):
        prepare(recipe_of(tiny_recipe_dict, **tables), tiny_data)


@pytest.mark.parametrize("ranks", [{}, {"stream": 16, "ffn": 20}], ids=["target", "ranks"])
def test_one_cycle_from_the_teacher_in_the_same_run_directory(ranks, tiny_recipe_dict, tiny_data, tmp_path):
    compress = {"ranks": ranks} if ranks else {}
    recipe = recipe_of(tiny_recipe_dict, compress=compress, distil={"steps": 40})
    run = Run.create(tmp_path / "r", recipe.to_toml(), recipe.seed)
    result = compress_run(run, recipe, data=tiny_data, reporter=SilentReporter())
    assert result.method == "plain-kd" and any(note.startswith("plain-kd: ") for note in result.notes)
    (cycle,) = result.cycles
    assert cycle.accepted and cycle.steps in (40, 80)
    assert cycle.sites and not cycle.analysed
    best = load_model(run, layout.BEST)
    assert ranks_of(best.spec) == result.ranks and not family_of(best).projections(best)
    if ranks:
        assert result.ranks["stream"] == 16 and result.ranks["layer.1.ffn"] == 20
    else:
        assert result.reduction >= recipe.stop.target_reduction and result.stop in ("target_reduction", "metric_floor")
