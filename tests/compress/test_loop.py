"""The order of cycles: what a number stands for after a kill, how a rolled-back cycle is tried again, when it ends."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rmtkd_edge.compress import cycle, loop
from rmtkd_edge.compress.context import Context, State
from rmtkd_edge.compress.cycle import Decision, too_few_samples
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.ranks.edge import check_site_names
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import list_sites
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.methods.base import Cut
from rmtkd_edge.run.records.cycle import SiteRecord
from rmtkd_edge.run.records.scores import Scores

SCORES = Scores("validation", 10, "accuracy", {"accuracy": 0.9})


class MemoryStore:
    """A store that lives on in memory when a run is killed."""

    def __init__(self):
        self.records, self.plans, self.models = {}, {}, {}

    def get_record(self, number):
        return self.records.get(number)

    def put_record(self, number, record):
        self.records[number] = record

    def get_plan(self, number):
        return self.plans.get(number)

    def put_plan(self, number, plan, spectra):
        self.plans[number] = plan

    def get_model(self, number, name):
        return self.models.get((number, name))

    def put_model(self, number, name, folded, projections):
        self.models[number, name] = (folded, projections)

    def checkpoints(self, number, attempt):
        return None


class Model:
    """Stands for a model: only its number of parameters is asked for."""

    def __init__(self, name="teacher", parameters=50):
        self.name, self.spec = name, SimpleNamespace(count_parameters=lambda: parameters)

    def to(self, device):
        return self


class Family:
    """Three sites, a to c."""

    def sites_to_cut(self, spec, options):
        return list("abc")


class Method:
    """The spectra decide."""

    iterative = True

    def widths(self, *args):
        return None


def site(name: str, quantile: float, after: int) -> SiteRecord:
    figures: dict[str, Any] = dict.fromkeys(("lambda_plus", "lambda_minus", "sigma2", "q", "n_eff"), 1.0)
    figures |= dict.fromkeys(("n", "rank", "aligned_rank"), 1)
    return SiteRecord(name, "stream", 1, 8, after, "window", quantile, "none", **figures, note="")


@pytest.fixture
def recipe(tiny_recipe_dict):
    changes = {"compress": {"sites_per_cycle": 1, "rounds": 1}, "stop": {"target_reduction": 0.99}}
    return parse_recipe({**tiny_recipe_dict, **changes}, "test")


@pytest.fixture
def setting(recipe, monkeypatch):
    """A loop over the sites a, b and c whose steps do nothing; `shrinking` names the sites that would be cut."""
    shrinking = {"b"}

    def by_spectra(context, state, job, number):
        sites = tuple(site(name, job.quantile, 4 if name in shrinking else 8) for name in job.sites)
        return Decision(job.quantile, sites, Cut({name: 4 for name in job.sites}), {})

    monkeypatch.setattr(cycle, "by_spectra", by_spectra)
    monkeypatch.setattr(cycle, "narrowed", lambda context, folded, cut: (Model("+".join(cut.widths)), {}))
    monkeypatch.setattr(Context, "validate", lambda self, model: SCORES)
    made: Any = Context(
        recipe=recipe,
        family=Family(),
        task=None,
        method=Method(),
        data=None,
        accelerator=SimpleNamespace(device="cpu"),
        store=MemoryStore(),
        report=lambda *args, **facts: None,
        multiple=8,
        teacher_parameters=50,
        teacher_scores=SCORES,
    )
    return SimpleNamespace(context=made, shrinking=shrinking)


def tune(setting, monkeypatch, kill_at=None):
    def fine_tune(context, state, planned, number, attempt):
        if kill_at is not None and planned.student.name == kill_at:
            raise KeyboardInterrupt
        return planned.student, SimpleNamespace(steps=1, scores=SCORES, seconds=1.0)

    monkeypatch.setattr(cycle, "fine_tune", fine_tune)
    return loop.run_loop(setting.context, State(Model(), {}, SCORES))


def family(setting, monkeypatch, targets, made, one_shot=False):
    """Run a loop from 100 parameters whose cycles give models of these (parameters, accuracy, quantile) in turn."""
    recipe = setting.context.recipe
    compress, stop = recipe.compress.model_copy(update={"one_shot": one_shot}), {"target_reduction": tuple(targets)}
    recipe = recipe.model_copy(update={"compress": compress, "stop": recipe.stop.model_copy(update=stop)})
    setting.context = replace(setting.context, recipe=recipe, teacher_parameters=100)
    models = iter([Model(f"{parameters}", parameters) for parameters, _, _ in made])
    quantiles = iter([quantile for _, _, quantile in made])
    scores = {f"{parameters}": replace(SCORES, values={"accuracy": value}) for parameters, value, _ in made}

    def by_spectra(context, state, job, number):
        sites = tuple(site(name, job.quantile, 4) for name in job.sites)
        return Decision(next(quantiles), sites, Cut({name: 4 for name in job.sites}), {})

    def fine_tune(context, state, planned, number, attempt):
        return planned.student, SimpleNamespace(steps=1, scores=scores[planned.student.name], seconds=1.0)

    monkeypatch.setattr(cycle, "by_spectra", by_spectra)
    monkeypatch.setattr(cycle, "narrowed", lambda context, folded, cut: (next(models), {}))
    monkeypatch.setattr(cycle, "fine_tune", fine_tune)
    monkeypatch.setattr(Context, "validate", lambda self, model: scores[model.name])
    students, records, stop = loop.run_loop(setting.context, State(Model("teacher", 100), {}, SCORES))
    return [state.parameters for state in students], records, stop


def test_one_state_that_meets_two_targets_is_one_student(setting, monkeypatch):
    sizes, _, stop = family(setting, monkeypatch, [0.3, 0.5, 0.6], [(45, 0.9, 0.5), (35, 0.9, 0.5)])
    assert sizes == [45, 35] and stop == "target_reduction"


def test_the_next_target_goes_on_with_what_the_last_one_held_back(setting, monkeypatch):
    made = [(85, 0.9, 0.1), (75, 0.9, 0.2), (60, 0.9, 0.5), (40, 0.9, 0.3)]  # the recipe's quantile is 0.5
    sizes, records, stop = family(setting, monkeypatch, [0.1, 0.2, 0.6], made)
    assert sizes == [85, 75, 40] and stop == "target_reduction"
    assert [(r.sites[0].name, r.target) for r in records] == [("a", 0.1), ("a", 0.2), ("a", 0.6), ("b", 0.6)]


def test_a_family_that_ends_short_of_a_target_keeps_the_last_state(setting, monkeypatch):
    made = [(65, 0.9, 0.5), (50, 0.9, 0.5), (45, 0.9, 0.5)]
    sizes, _, stop = family(setting, monkeypatch, [0.3, 0.9], made)
    assert sizes == [65, 45] and stop == "all_sites_and_rounds"


def test_a_student_of_one_cycle_under_the_floor_ends_the_family(setting, monkeypatch):
    made = [(65, 0.9, 0.5), (45, 0.5, 0.5), (20, 0.9, 0.5)]
    sizes, records, stop = family(setting, monkeypatch, [0.3, 0.5, 0.7], made, one_shot=True)
    assert sizes == [65] and stop == "metric_floor" and [r.accepted for r in records] == [True, False]
    alone, _, stop = family(setting, monkeypatch, [0.5], made[1:], one_shot=True)
    assert alone == [45] and stop == "metric_floor"  # it has nothing to go back to


def test_a_plan_belongs_to_its_job_and_not_to_its_number(setting, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        tune(setting, monkeypatch, kill_at="b")
    # `a` was saturated, so that `b` has the number 1; going on must not take b's plan for a
    setting.shrinking.add("c")
    _, records, _ = tune(setting, monkeypatch)
    assert [[s.name for s in r.sites] for r in records] == [["b"], ["c"]]


def test_saturation_is_about_all_sites(setting, monkeypatch):
    setting.shrinking.update("ab")  # only c, the last, would not shrink
    _, records, stop = tune(setting, monkeypatch)
    assert len(records) == 2 and stop == "all_sites_and_rounds"


def test_nothing_left_to_cut_is_saturation(setting, monkeypatch):
    setting.shrinking.clear()
    assert tune(setting, monkeypatch)[2] == "outliers_saturated"


def test_a_retry_is_gentler_than_what_was_used(recipe):
    record: Any = SimpleNamespace(sites=[site("stream", 0.2, 4)], quantile=0.2, round=1, target=None)
    job = loop.gentler(recipe, record)
    assert job.retry and job.sites == ("stream",)
    assert job.quantile == pytest.approx(0.2 * recipe.compress.retry_quantile)


def test_rank_names_that_stand_for_nothing_are_told_at_once():
    spec = EncoderSpec("bert", 20, 16, 2, 16, (LayerSpec(2, 8, 8, 32, 8**-0.5),), 16, ("a", "b"))
    known = list_sites(spec)[0].name
    check_site_names(spec, "compress.ranks", {known: 4, "ffn": 8})
    with pytest.raises(RecipeError, match=r"`fnn`; did you mean `ffn`(?s:.)*layer\.99\.ffn"):
        check_site_names(spec, "compress.ranks", {"fnn": 4, "layer.99.ffn": 4, known: 4})


def test_half_precision_on_a_processor_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RecipeError, match="needs a GPU"):
        make_accelerator("fp16")


@pytest.mark.parametrize(("samples", "warned"), [(14, True), (64, False)])
def test_fewer_samples_than_channels_are_told_with_the_familys_keys(samples, warned):
    width = SimpleNamespace(name="layer.1.stream", width=64)
    chosen: Any = SimpleNamespace(spectrum=SimpleNamespace(n=samples, site=width), name=width.name)
    family: Any = SimpleNamespace(sample_keys="analyse.pixels_per_image")
    said = too_few_samples([chosen], family)
    assert bool(said) is warned
    if warned:
        assert "14 for 64" in said and said.endswith("raise analyse.pixels_per_image")
