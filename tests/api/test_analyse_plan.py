"""`analyse`, `plan` and `compress`: spectra, the widths that a budget gives, and the closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api.own_sample import Own, logits
from config.test_curves import curves

import rmtkd_edge as rk
from rmtkd_edge.compress.ranks.edge import multiple_for
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.config.recipe import Analyse, Compress
from rmtkd_edge.errors import RecipeError, UserError
from rmtkd_edge.families.base import family_of, ranks_of


@pytest.fixture(scope="module")
def board() -> HardwareProfile:
    """A profile that holds measured curves."""
    return load_profile("local-cpu").model_copy(update={"calibration": curves()})


def test_every_site_has_the_eigenvalues_of_its_width(own: Own) -> None:
    found = rk.analyse(own.model, own.batches)
    assert found.spec == own.model.spec and len(found.sites) > 3
    for spectrum, rank in zip(found.sites, found.ranks(), strict=True):
        assert spectrum.eigenvalues.shape == (spectrum.site.heads, spectrum.site.width)
        assert np.isfinite(spectrum.eigenvalues).all() and spectrum.eigenvalues.min() > -1e-6
        assert 0 <= rank.rank <= spectrum.site.width and rank.spectrum is spectrum


def test_sites_are_chosen_by_name_or_kind(bert: Own) -> None:
    found = rk.analyse(bert.model, bert.batches, sites=["ffn", "pooler"], options=Analyse(quantile=0.3))
    assert [s.site.name for s in found.sites] == ["layer.0.ffn", "layer.1.ffn", "pooler"]
    assert found.settings.analyse.quantile == 0.3
    (one,) = rk.analyse(bert.model, bert.batches, sites="pooler").sites
    assert one.site.name == "pooler"


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": ["fnn"]},
        {"sites": ["pooler", "fnn"]},
        {"compress": Compress(ranks={"fnn": 8})},
        {"compress": Compress(sites=("fnn",))},
    ],
)
def test_a_site_that_the_model_has_not_is_named(bert: Own, wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="`fnn`; did you mean `ffn`"):
        rk.analyse(bert.model, bert.batches, **wrong)


def test_spectra_and_plans_show_themselves(spectra: rk.Spectra, cut: tuple[rk.Plan, Any]) -> None:
    from matplotlib.figure import Figure

    assert isinstance(spectra.plot(), Figure)
    assert all(s.site.name in spectra._repr_html_() and s.site.name in repr(spectra) for s in spectra.sites)
    assert len(repr(spectra)) < 1000
    plan, _ = cut
    assert "fewer" in repr(plan) and "layer.0.ffn" in plan._repr_html_()


@pytest.mark.parametrize("reduction", [0.2, 0.5])
def test_a_plan_lands_at_its_reduction_or_above(spectra: rk.Spectra, reduction: float) -> None:
    plan = rk.plan(spectra, reduction=reduction, align=1)
    assert reduction <= plan.reduction < reduction + 0.15
    assert plan.after.count_parameters() == plan.parameters_after and plan.latency_ms is None


@pytest.mark.parametrize("align", [1, 4, 8])
def test_widths_are_multiples_or_stay_as_they_are(spectra: rk.Spectra, align: int) -> None:
    for chosen in rk.plan(spectra, reduction=0.3, align=align).sites:
        site = chosen.spectrum.site
        assert chosen.width_after == site.width or chosen.width_after * site.heads % align == 0
        assert chosen.width_after >= min(chosen.rank, site.width)


@pytest.mark.parametrize("on", [None, "raspberry-pi-5", "local-cpu"])
def test_the_device_gives_the_multiple_where_none_is_named(spectra: rk.Spectra, on: str | None) -> None:
    multiple = multiple_for(family_of(spectra.spec), None if on is None else load_profile(on))
    assert rk.plan(spectra, quantile=0.3, on=on).ranks == rk.plan(spectra, quantile=0.3, align=multiple).ranks


def test_a_higher_quantile_never_keeps_more(spectra: rk.Spectra) -> None:
    sizes = [rk.plan(spectra, quantile=at, align=1).parameters_after for at in (0.0, 0.1, 0.4, 0.8, 1.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] <= spectra.spec.count_parameters()


def test_explicit_ranks_come_before_every_budget(bert: Own) -> None:
    asked = Compress(ranks={"ffn": 24, "layer.1.ffn": 13, "pooler": 10_000})
    spectra = rk.analyse(bert.model, bert.batches, sites=["ffn", "pooler", "value"], compress=asked)
    for plan in (rk.plan(spectra), rk.plan(spectra, reduction=0.05), rk.plan(spectra, quantile=0.9, align=4)):
        assert (plan.ranks["layer.0.ffn"], plan.ranks["layer.1.ffn"], plan.ranks["pooler"]) == (24, 13, 32)
    student = rk.compress(bert.model, rk.plan(spectra), bert.batches)
    assert ranks_of(student.spec)["layer.1.ffn"] == 13
    with pytest.raises(UserError, match="as far as the edge allows") as caught:
        rk.plan(spectra, reduction=0.7)
    assert "explicit ranks" in caught.value.hint


def test_a_latency_is_kept_by_the_curves_of_the_device(
    spectra: rk.Spectra, board: HardwareProfile, tmp_path: Path
) -> None:
    whole = rk.plan(spectra, quantile=0.0, on=board).latency_ms
    assert whole is not None
    plan = rk.plan(spectra, latency_ms=0.8 * whole, on=board, align=1)
    assert plan.latency_ms is not None and plan.latency_ms <= 0.8 * whole and plan.reduction > 0
    assert rk.plan(spectra, latency_ms=10 * whole, on=board, align=1).quantile < 1e-3
    with pytest.raises(UserError, match=r"leaves .* ms"):
        rk.plan(spectra, latency_ms=1e-6 * whole, on=board)


def test_images_have_a_latency_too(resnet: Own, board: HardwareProfile) -> None:
    spectra = rk.analyse(resnet.model, resnet.batches[:4])
    whole = rk.plan(spectra, quantile=0.0, on=board).latency_ms
    assert whole is not None
    found = rk.plan(spectra, latency_ms=0.9 * whole, on=board, align=1).latency_ms
    assert found is not None and found <= 0.9 * whole


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"reduction": 1.2}, "reduction is 1.2"),
        ({"reduction": 0.0}, "reduction is 0.0"),
        ({"reduction": math.nan}, "reduction is nan"),
        ({"reduction": 0.999}, r"leaves [\d,]+ parameters"),
        ({"reduction": 0.5, "latency_ms": 1.0}, "two budgets"),
        ({"latency_ms": -1.0, "on": "local-cpu"}, "latency_ms is -1.0"),
        ({"latency_ms": 5.0}, "without `on`"),
        ({"latency_ms": 5.0, "on": "raspberry-pi-5"}, "measured curves"),
        ({"on": "raspbery-pi-5"}, "raspberry-pi-5"),
        ({"quantile": 2.0}, "quantile"),
        ({"align": 0}, "align is 0"),
        ({"align": -8}, "align is -8"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(spectra: rk.Spectra, wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        rk.plan(spectra, **wrong)


def test_compress_gives_the_plans_shape_and_leaves_the_model(bert: Own, cut: tuple[rk.Plan, Any]) -> None:
    plan, student = cut
    assert student.spec == plan.after and not student.training
    assert {name: ranks_of(student.spec)[name] for name in plan.ranks} == plan.ranks
    assert sum(p.numel() for p in student.parameters()) == plan.parameters_after
    torch.testing.assert_close(logits(bert.model, bert.batches[0]), bert.reference, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="another model"):
        rk.compress(student, plan, bert.batches)


def test_a_plan_that_cuts_nothing_changes_no_logit(bert: Own) -> None:
    spectra = rk.analyse(bert.model, bert.batches, sites=["pooler"], compress=Compress(ranks={"pooler": 32}))
    plan = rk.plan(spectra)
    student = rk.compress(bert.model, plan, bert.batches)
    assert plan.reduction == 0
    torch.testing.assert_close(logits(student, bert.batches[0]), bert.reference, rtol=1e-4, atol=1e-4)


def test_the_closed_form_uses_the_batches(bert: Own, spectra: rk.Spectra) -> None:
    """Least squares on the batches is nearer to the teacher than algebra on the weights alone."""
    plan = rk.plan(spectra, reduction=0.3, align=1)
    folded = rk.plan(rk.analyse(bert.model, bert.batches, compress=Compress(warm_start="fold")), reduction=0.3, align=1)

    def distance(student: Any) -> float:
        pairs = [(logits(student, b).softmax(1), logits(bert.model, b).softmax(1)) for b in bert.batches]
        return float(torch.stack([(a - b).abs().mean() for a, b in pairs]).mean())

    fitted, plain = (distance(rk.compress(bert.model, p, bert.batches)) for p in (plan, folded))
    assert plan.ranks == folded.ranks and fitted < plain
