"""The Python API on the user's own model and batches: no recipe, no accelerator, no run directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from config.test_curves import curves
from torch import Tensor, nn
from torch.utils.data import DataLoader

import rmtkd_edge as rk
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.recipe import Analyse, Distil
from rmtkd_edge.errors import DataError, RecipeError, RunDirError, UserError
from rmtkd_edge.families.base import ranks_of

Batches = list[dict[str, Tensor]]
ROWS, TOKENS, SIDE = 32, 10, 16


def text_batches(tokenizer: Any, count: int = 12) -> Batches:
    """Return batches of random known tokens with padding; the label is whether the first of them is an even one."""
    generator, made = torch.Generator().manual_seed(0), []
    for _ in range(count):
        ids = torch.randint(5, len(tokenizer), (ROWS, TOKENS), generator=generator)
        mask = (torch.arange(TOKENS) < torch.randint(3, TOKENS + 1, (ROWS, 1), generator=generator)).long()
        made.append({"input_ids": ids * mask, "attention_mask": mask, "labels": ids[:, 0] % 2})
    return made


def image_batches(count: int = 8) -> Batches:
    """Return batches of noise, brighter for the label 1."""
    generator, made = torch.Generator().manual_seed(0), []
    for _ in range(count):
        labels = torch.randint(0, 2, (ROWS,), generator=generator)
        pixels = torch.randn(ROWS, 3, SIDE, SIDE, generator=generator) + labels[:, None, None, None]
        made.append({"pixel_values": pixels, "labels": labels})
    return made


@dataclass(frozen=True)
class Own:
    """A library's module, the model made of it, batches, and what else an export takes."""

    module: nn.Module
    model: Any
    batches: Batches
    reference: Tensor
    extra: dict[str, Any]


@pytest.fixture(scope="module")
def bert(tiny_tokenizer: Path) -> Own:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, hidden_dropout_prob=0.0, initializer_range=0.2, **shape
    )
    module, batches = BertForSequenceClassification(config).eval(), text_batches(tokenizer)
    with torch.no_grad():
        logits = module(batches[0]["input_ids"], batches[0]["attention_mask"]).logits
    return Own(module, rk.from_transformers(module), batches, logits, {"tokenizer": tokenizer})


@pytest.fixture(scope="module")
def resnet() -> Own:
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    module, batches = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=2).eval(), image_batches(2)
    with torch.no_grad():
        logits = module(batches[0]["pixel_values"])
    return Own(module, rk.from_torchvision(module, ["dark", "bright"], image_size=SIDE), batches, logits, {})


@pytest.fixture(scope="module", params=["bert", "resnet"])
def own(request: pytest.FixtureRequest) -> Own:
    return request.getfixturevalue(request.param)


def inputs_of(model: Any, batch: dict[str, Tensor]) -> list[Tensor | None]:
    return [batch.get(item.name) for item in model.spec.inputs]


@torch.no_grad()
def accuracy(model: Any, batches: Batches) -> float:
    right = [(model(*inputs_of(model, b)).argmax(1) == b["labels"]).float().mean() for b in batches]
    return float(torch.stack(right).mean())


@pytest.fixture(scope="module")
def spectra(bert: Own) -> rk.Spectra:
    return rk.analyse(bert.model, bert.batches)


@pytest.fixture(scope="module")
def cut(bert: Own, spectra: rk.Spectra) -> tuple[rk.Plan, Any]:
    plan = rk.plan(spectra, reduction=0.4, align=2)
    return plan, rk.compress(bert.model, plan, bert.batches)


def test_the_verbs_are_functions_although_packages_are_called_like_them() -> None:
    import rmtkd_edge.compress.loop
    import rmtkd_edge.export.stage
    import rmtkd_edge.profile.stage
    import rmtkd_edge.report.stage

    for verb in (rk.compress, rk.export, rk.profile, rk.report):
        assert callable(verb)
    assert rmtkd_edge.compress is rk.compress and rmtkd_edge.compress.loop.run_loop
    assert all(getattr(rk, name) is not None for name in rk.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = rk.comprss


def test_a_librarys_module_keeps_its_logits_and_is_left_as_it_is(own: Own) -> None:
    before = {name: value.clone() for name, value in own.module.state_dict().items()}
    with torch.no_grad():
        found = own.model(*inputs_of(own.model, own.batches[0]))
    torch.testing.assert_close(found, own.reference, rtol=1e-4, atol=1e-4 * float(own.reference.abs().max()))
    own.model.train()
    own.model.eval()
    assert all(torch.equal(value, before[name]) for name, value in own.module.state_dict().items())


def test_any_other_module_is_refused_with_what_is_known() -> None:
    with pytest.raises(UserError, match="Linear") as caught:
        rk.from_transformers(nn.Linear(2, 2))
    assert "encoder" in str(caught.value.hint)


def test_lists_generators_and_data_loaders_give_the_same_spectra(bert: Own, spectra: rk.Spectra) -> None:
    def stream() -> Iterator[dict[str, Tensor]]:
        yield from bert.batches

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return ROWS * len(bert.batches)

        def __getitem__(self, row: int) -> dict[str, Tensor]:
            return {name: value[row % ROWS] for name, value in bert.batches[row // ROWS].items()}

    for loader in (stream(), DataLoader(Rows(), batch_size=ROWS)):
        again = rk.analyse(bert.model, loader)
        for a, b in zip(again.sites, spectra.sites, strict=True):
            np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-6, atol=1e-9)


def test_what_cannot_be_analysed_says_what_is_missing(bert: Own) -> None:
    with pytest.raises(DataError, match="attention_mask"):
        rk.analyse(bert.model, [{"input_ids": torch.ones(2, 3, dtype=torch.long)}])
    with pytest.raises(DataError, match="no batch"):
        rk.analyse(bert.model, [])
    with pytest.raises(RecipeError, match="no sites") as caught:
        rk.analyse(bert.model, bert.batches, sites=["fnn"])
    assert "ffn" in str(caught.value.hint)


def test_sites_are_chosen_by_name_or_kind(bert: Own) -> None:
    found = rk.analyse(bert.model, bert.batches, sites=["ffn", "pooler"], options=Analyse(quantile=0.3))
    assert [s.site.name for s in found.sites] == ["layer.0.ffn", "layer.1.ffn", "pooler"]
    assert found.settings.analyse.quantile == 0.3


def test_spectra_and_plans_show_themselves(spectra: rk.Spectra, cut: tuple[rk.Plan, Any]) -> None:
    from matplotlib.figure import Figure

    assert isinstance(spectra.plot(), Figure)
    assert all(s.site.name in spectra._repr_html_() for s in spectra.sites)
    plan, _ = cut
    assert "fewer" in repr(plan) and "layer.0.ffn" in plan._repr_html_()


@pytest.mark.parametrize("reduction", [0.2, 0.5])
def test_a_plan_lands_at_its_reduction_or_above(spectra: rk.Spectra, reduction: float) -> None:
    plan = rk.plan(spectra, reduction=reduction, align=1)
    assert reduction <= plan.reduction < reduction + 0.15
    assert plan.after.count_parameters() == plan.parameters_after and plan.latency_ms is None
    for chosen in rk.plan(spectra, reduction=reduction, align=4).sites:
        site = chosen.spectrum.site
        assert chosen.width_after * site.heads % 4 == 0 or chosen.width_after == site.width


def test_a_latency_needs_curves_and_is_kept_by_them(spectra: rk.Spectra) -> None:
    board = load_profile("local-cpu")
    with pytest.raises(UserError, match="curves"):
        rk.plan(spectra, latency_ms=1.0, on=board.model_copy(update={"calibration": None}))
    known = board.model_copy(update={"calibration": curves()})
    whole = rk.plan(spectra, quantile=0.0, on=known).latency_ms
    assert whole is not None
    plan = rk.plan(spectra, latency_ms=0.8 * whole, on=known, align=1)
    assert plan.latency_ms is not None and plan.latency_ms <= 0.8 * whole
    with pytest.raises(UserError, match="two budgets"):
        rk.plan(spectra, latency_ms=1.0, reduction=0.5)
    with pytest.raises(UserError, match="as far as the edge allows"):
        rk.plan(spectra, reduction=0.999)


def test_compress_gives_the_plans_shape_and_leaves_the_model(bert: Own, cut: tuple[rk.Plan, Any]) -> None:
    plan, student = cut
    assert student.spec == plan.after and not student.training
    assert {name: ranks_of(student.spec)[name] for name in plan.ranks} == plan.ranks
    assert sum(p.numel() for p in student.parameters()) == plan.parameters_after
    with torch.no_grad():
        found = bert.model(*inputs_of(bert.model, bert.batches[0]))
    torch.testing.assert_close(found, bert.reference, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="another model"):
        rk.compress(student, plan, bert.batches)


def test_images_go_the_same_way(resnet: Own) -> None:
    plan = rk.plan(rk.analyse(resnet.model, resnet.batches, sites=["layer.4.block.1.conv1"]), quantile=0.5)
    student = rk.compress(resnet.model, plan, resnet.batches)
    assert student.spec == plan.after and plan.reduction > 0


@pytest.mark.parametrize("how", ["function", "batches"])
def test_distil_keeps_the_best_state(bert: Own, cut: tuple[rk.Plan, Any], how: str) -> None:
    """The best of the states that were looked at is what comes back, however bad the last one is."""
    seen = []

    def evaluate(model: Any) -> float:
        seen.append(accuracy(model, bert.batches[-4:]))
        return seen[-1]

    before = {name: value.clone() for name, value in cut[1].state_dict().items()}
    options = Distil(steps=12, evaluate_every=3, learning_rate=3e-2, alpha=0.9)
    judge: Any = evaluate if how == "function" else bert.batches[-4:]
    student = rk.distil(cut[1], bert.model, bert.batches[:-4], evaluate=judge, options=options)
    assert not student.training and all(torch.equal(v, before[k]) for k, v in cut[1].state_dict().items())
    if how == "function":
        assert len(seen) >= 4 and accuracy(student, bert.batches[-4:]) == pytest.approx(max(seen))
    assert student.spec == cut[0].after


def test_without_labels_the_teacher_alone_teaches(bert: Own, cut: tuple[rk.Plan, Any]) -> None:
    unlabelled = [{name: value for name, value in b.items() if name != "labels"} for b in bert.batches]
    options = Distil(alpha=0.0, learning_rate=1e-3, temperature=1.0)
    student = rk.distil(cut[1], bert.model, unlabelled, steps=60, options=options)

    @torch.no_grad()
    def distance(model: Any) -> float:
        pairs = [(model(*inputs_of(model, b)), bert.model(*inputs_of(bert.model, b))) for b in bert.batches]
        return float(torch.stack([(a.softmax(1) - b.softmax(1)).abs().mean() for a, b in pairs]).mean())

    assert distance(student) < distance(cut[1])


def test_export_load_and_profile_a_folder(bert: Own, cut: tuple[rk.Plan, Any], tmp_path: Path) -> None:
    folder = rk.export(cut[1], tmp_path / "out", loader=bert.batches, teacher=bert.model, **bert.extra)
    assert folder.record.reduction == pytest.approx(cut[0].reduction) and {*folder.record.variants} >= {"fp32", "int8"}
    assert "onnx/model.onnx" in folder._repr_html_()
    with pytest.raises(RunDirError, match="holds an export"):
        rk.export(cut[1], tmp_path / "out", **bert.extra)
    texts = ["great film", "a dull plot with some music"]
    a, b = rk.load(folder).predict(texts), folder.load(backend="torch").predict(texts)
    np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-3, atol=1e-4)
    effort = {"min_runs": 10, "min_duration_s": 0.0, "batch_sizes": [1], "lengths": [8]}
    result = rk.profile(folder, on="local-cpu", quick=True, **effort)
    (record,) = result.records
    assert {r.model.precision for r in record.results} >= {"fp32"} and all(r.latency.p50 for r in record.results)
    assert "p50" in result._repr_html_()
    with pytest.raises(RunDirError):
        rk.report(tmp_path / "out")


def test_an_export_of_images_answers_arrays(resnet: Own, tmp_path: Path) -> None:
    folder = rk.export(resnet.model, tmp_path / "out", precision=("fp32",), loader=resnet.batches)
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    assert rk.load(folder).predict(list(images)).outputs.shape == (3, 2)
    assert set(rk.load(folder).predict(list(images)).labels) <= {"dark", "bright"}
