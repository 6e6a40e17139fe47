"""Students of fewer layers, and the losses of task-DistilBERT and PKD against their authors' formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_sample import batches_of, load, recipe_of
from methods.methods_sample import example, run_of
from torch.nn import functional as F

from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import call, find_family, ranks_of
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.families.store import load_model
from rmtkd_edge.methods.base import find_method, shape_of
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run

EXACT: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
SIX = {"shape": {"layers": 6, "width": 16, "heads": 2, "ffn": 32, "max_positions": 32, "dropout": 0.0}}
METHODS = ["distilbert", "pkd", "pkd-last"]


def states(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the stream after the embeddings and after every layer, by running the model to every depth."""
    inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return [model.states(*inputs, layers=depth) for depth in range(len(model.layers) + 1)]


def test_layers_are_those_of_the_authors() -> None:
    distilbert, skip, last = (find_method(name) for name in METHODS)
    assert distilbert.kept(12, 6) == (0, 2, 4, 7, 9, 11) and distilbert.kept(6, 3) == (0, 2, 5)
    assert skip.patient(12, 6) == [1, 3, 5, 7, 9] and skip.patient(12, 3) == [3, 7]
    assert last.patient(12, 6) == [6, 7, 8, 9, 10] and skip.kept(12, 6) == (0, 1, 2, 3, 4, 5)
    for layers in range(2, 25):
        for depth in range(1, layers):
            assert len({*distilbert.kept(layers, depth)}) == depth


def test_the_depth_is_the_one_nearest_to_the_budget(tiny_tokenizer: Any) -> None:
    spec, method = load(FAMILY, tiny_tokenizer, model=SIX).spec, find_method("pkd")
    before, found = spec.count_parameters(), []
    for target in (0.05, 0.2, 0.4, 0.6, 0.99):
        recipe = recipe_of("encoder", tiny_tokenizer, model=SIX, stop={"target_reduction": target})
        widths = method.widths(spec, FAMILY, recipe, 8)
        found.append(len(widths.layers))
        gap = abs(1 - shape_of(FAMILY, spec, widths).count_parameters() / before - target)
        others = [FAMILY.shorter(spec, range(depth)).count_parameters() for depth in range(1, 6)]
        assert gap == pytest.approx(min(abs(1 - parameters / before - target) for parameters in others))
        assert "of 0 to 5 stay" in widths.note and f"target_reduction = {target:g}" in widths.note
    assert found == sorted(found, reverse=True) and found[0] == 5 and found[-1] == 1
    assert shape_of(FAMILY, spec, widths).layers == spec.layers[:1]


def test_a_model_of_all_layers_is_the_model_and_of_some_has_their_weights(tiny_tokenizer: Any) -> None:
    teacher = load(FAMILY, tiny_tokenizer, model=SIX)
    batch = batches_of(teacher.spec, 1)[0]
    assert torch.equal(call(FAMILY.shortened(teacher, range(6)), batch), call(teacher, batch))
    some = FAMILY.shortened(teacher, (1, 4))
    assert some.spec.count_parameters() == sum(p.numel() for p in some.parameters())
    assert torch.equal(some.layers[1].up.weight, teacher.layers[4].up.weight)
    some.layers[1].up.weight.data.zero_()
    assert teacher.layers[4].up.weight.abs().sum() > 0


def test_distilbert_is_its_authors_loss(tiny_tokenizer: Any) -> None:
    """huggingface/transformers, research_projects/distillation/distiller.py: KLDivLoss(batchmean) of softmax(/ T) times
    T^2; CosineEmbeddingLoss(target 1, mean) of the last states where the mask is 1; their sum with the task's loss."""
    case = example("distilbert", "encoder", tiny_tokenizer, model=SIX, distil={"alpha": 0.3, "temperature": 2.0})
    batch = case.batch
    (s, t), valid = (states(model, batch)[-1] for model in (case.student, case.teacher)), batch["attention_mask"] == 1
    assert not valid.all() and len(case.student.layers) < 6
    z_s, z_t = call(case.student, batch), call(case.teacher, batch)
    soft = F.kl_div(F.log_softmax(z_s / 2, -1), F.softmax(z_t / 2, -1), reduction="batchmean") * 4
    cosine = F.cosine_embedding_loss(s[valid], t[valid], torch.ones(int(valid.sum())), reduction="mean")
    expected = 0.3 * F.cross_entropy(z_s, batch["labels"]) + 0.7 * soft + cosine
    torch.testing.assert_close(case.loss(), expected, **EXACT)


@pytest.mark.parametrize(("name", "layers"), [("pkd", [1, 3]), ("pkd-last", [3, 4])])
def test_pkd_is_its_authors_loss(name: str, layers: list[int], tiny_tokenizer: Any) -> None:
    """intersun/PKD-for-BERT-Model-Compression, src/KD_loss.py: distillation_loss is a * KLDivLoss(mean of all) * T^2
    + (1 - a) * cross-entropy; patience_loss the MSE of [CLS] states (B, layers, d), each normalised to 1."""
    compress, distil = {"minimum_rank": 2}, {"alpha": 0.3, "temperature": 10.0}
    case = example(name, "encoder", tiny_tokenizer, 0.4, model=SIX, compress=compress, distil=distil)
    assert len(case.student.layers) == 3
    z_s, z_t = call(case.student, case.batch), call(case.teacher, case.batch)
    soft = F.kl_div(F.log_softmax(z_s / 10, 1), F.softmax(z_t / 10, 1), reduction="none").mean() * 100
    own = torch.stack([state[:, 0] for state in states(case.student, case.batch)[1:3]], 1)
    other = torch.stack([states(case.teacher, case.batch)[1 + i][:, 0] for i in layers], 1)
    own, other = (x / x.norm(dim=2, keepdim=True) for x in (own, other))
    labels = F.cross_entropy(z_s, case.batch["labels"])
    expected = 0.7 * soft + 0.3 * labels + 100 * F.mse_loss(other, own)
    torch.testing.assert_close(case.loss(), expected, **EXACT)


@pytest.mark.parametrize("name", METHODS)
def test_fewer_layers_ship_like_any_student(name: str, tiny_tokenizer: Any, tiny_data: Any, tmp_path: Any) -> None:
    recipe = recipe_of("encoder", tiny_tokenizer, compress={"method": name}, stop={"target_reduction": 0.5})
    result = run_of(name, recipe, tiny_data, tmp_path / name)
    best = load_model(Run.open(tmp_path / name), layout.BEST)
    assert len(best.spec.layers) == 1 and ranks_of(best.spec) == result.ranks
    assert any("layers 0 of 0 to 1 stay" in note for note in result.notes)
    widths = {site.name: site.width_after for site in result.cycles[0].sites}
    assert widths["layer.1.ffn"] == 0 and widths["layer.0.ffn"] == result.ranks["layer.0.ffn"]


@pytest.mark.parametrize("name", METHODS)
def test_a_family_without_layers_and_widths_by_hand_are_refused(name: str, tiny_tokenizer: Any) -> None:
    compress = {"method": name, "ranks": {"stream": 8}, "one_shot": True}
    with pytest.raises(RecipeError, match="serves encoder") as caught:
        find_method(name).check(recipe_of("resnet", tiny_tokenizer, compress=compress), find_family("resnet"))
    assert len(caught.value.message.splitlines()) == 3
