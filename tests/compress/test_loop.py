"""The order of cycles: what a number stands for after a kill, how a rolled-back cycle is tried again, when it ends."""

from types import SimpleNamespace

import pytest
import torch

from rmtkd_edge.compress.ranks.edge import edge as ranks
from rmtkd_edge.compress import loop
from rmtkd_edge.compress.cycle import Job, State
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec, list_sites
from rmtkd_edge.config.recipe import parse_recipe


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
    """Stands for an encoder: only its number of parameters is asked for."""

    spec = None

    def __init__(self, name="teacher"):
        self.name = name

    def parameter_count(self):
        return 50

    def to(self, device):
        return self


@pytest.fixture
def recipe(tiny_recipe_dict):
    changes = {"compress": {"sites_per_cycle": 1, "rounds": 1}, "stop": {"target_reduction": 0.99}}
    return parse_recipe({**tiny_recipe_dict, **changes}, "test")


@pytest.fixture
def context(recipe, monkeypatch):
    """A loop over the sites a, b and c whose steps do nothing; `shrinking` names the sites that would be cut."""
    shrinking = {"b"}
    made = []

    def spectra_of(state, sites, *rest):
        return [SimpleNamespace(site=site, n=10**6) for site in sites]

    def pick_ranks(state, spectra, recipe, quantile, *rest):
        facts = lambda s: lambda w: {"name": s.site.name, "quantile": quantile}
        return quantile, [SimpleNamespace(spectrum=s, facts=facts(s)) for s in spectra]

    def closed_form(state, chosen, *rest):
        made.append([c.spectrum.site.name for c in chosen])
        return Model("+".join(made[-1])), {}

    sites = [SimpleNamespace(name=name, kind="stream", heads=1, width=8) for name in "abc"]
    monkeypatch.setattr(loop, "list_sites", lambda spec, kinds=(): sites)
    monkeypatch.setattr(loop.modes, "list_sites", lambda spec, kinds=(): sites)
    monkeypatch.setattr(loop.steps, "spectra_of", spectra_of)
    monkeypatch.setattr(loop.steps, "pick_ranks", pick_ranks)
    monkeypatch.setattr(loop.steps, "closed_form", closed_form)
    monkeypatch.setattr(loop.steps, "shrinks", lambda chosen, s: any(c.spectrum.site.name in shrinking for c in chosen))
    monkeypatch.setattr(loop.steps, "parameters", lambda state: 100)
    monkeypatch.setattr(loop, "accuracy", lambda *a: 0.9)
    monkeypatch.setattr(loop, "spectra_tensors", lambda chosen: {})
    data = SimpleNamespace(validation=lambda: [])
    accelerator = SimpleNamespace(device="cpu")
    made_context = loop.Context(recipe, data, accelerator, MemoryStore(), lambda *a, **k: None, 8, 100, 0.9)
    return SimpleNamespace(value=made_context, shrinking=shrinking, made=made)


def tune(context, monkeypatch, kill_at=None):
    def fine_tune(best, *rest):
        if kill_at is not None and best.name == kill_at:
            raise KeyboardInterrupt
        return best, SimpleNamespace(steps=1, accuracy=0.9, seconds=1.0)

    monkeypatch.setattr(loop.steps, "fine_tune", fine_tune)
    return loop.run_loop(context.value, State(Model(), {}, 0.9))


def test_a_plan_belongs_to_its_job_and_not_to_its_number(context, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        tune(context, monkeypatch, kill_at="b")
    # `a` was saturated, so that `b` has the number 1; going on must not take b's plan for a
    context.shrinking.add("c")
    _, records, _ = tune(context, monkeypatch)
    assert [[s["name"] for s in r["sites"]] for r in records] == [["b"], ["c"]]


def test_saturation_is_about_all_sites(context, monkeypatch):
    context.shrinking.update("ab")  # only c, the last, would not shrink
    _, records, stop = tune(context, monkeypatch)
    assert len(records) == 2 and stop == "all_sites_and_rounds"


def test_nothing_left_to_cut_is_saturation(context, monkeypatch):
    context.shrinking.clear()
    assert tune(context, monkeypatch)[2] == "outliers_saturated"


def test_a_retry_is_gentler_than_what_was_used(recipe):
    record = {"sites": [{"name": "stream"}], "quantile": 0.2}
    assert loop.gentler(recipe, Job(1, ("stream",), 0.8), record).quantile == pytest.approx(
        0.2 * recipe.compress.retry_quantile
    )


def test_rank_names_that_stand_for_nothing_are_told_at_once():
    spec = EncoderSpec("bert", 20, 16, 2, 16, (LayerSpec(2, 8, 8, 32, 8**-0.5),), 16, ("a", "b"))
    known = list_sites(spec)[0].name
    ranks.check_site_names(spec, "compress.ranks", {known: 4, "ffn": 8})
    with pytest.raises(RecipeError, match=r"`fnn`; did you mean `ffn`(?s:.)*layer\.99\.ffn"):
        ranks.check_site_names(spec, "compress.ranks", {"fnn": 4, "layer.99.ffn": 4, known: 4})


def test_half_precision_on_a_processor_is_refused():
    from rmtkd_edge.compress.parallel import make_accelerator

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RecipeError, match="needs a GPU"):
        make_accelerator("fp16")


@pytest.mark.parametrize(("samples", "warned"), [(14, True), (64, False)])
def test_fewer_samples_than_channels_are_told(samples, warned):
    site = SimpleNamespace(name="layer.1.stream", width=64)
    recipe = SimpleNamespace(task=SimpleNamespace(kind="image"))
    said = loop.too_few_samples([SimpleNamespace(spectrum=SimpleNamespace(n=samples, site=site))], recipe)
    assert bool(said) is warned
    if warned:
        assert "14 for 64" in said and "analyse.pixels_per_image" in said
