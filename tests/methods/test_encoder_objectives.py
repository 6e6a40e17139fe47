"""TinyBERT and BERT-of-Theseus against formulas written down independently from their authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_sample import recipe_of
from methods.methods_sample import example, run_of
from methods.test_fewer_layers import EXACT, SIX, states
from torch.nn import functional as F

from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import call
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.families.store import load_model
from rmtkd_edge.methods.base import find_method
from rmtkd_edge.methods.theseus import replacing_rate
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run


def attention(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return every layer's scores as BERT computes them: q k^T / sqrt(d) + (1 - mask) * -10000, head by head."""
    found = []
    for layer, state in zip(model.layers, states(model, batch), strict=False):
        rows, length, heads = *batch["attention_mask"].shape, layer.heads
        q, k = (part(state).reshape(rows, length, heads, -1) for part in (layer.query, layer.key))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * layer.scale
        found.append(scores + (1.0 - batch["attention_mask"][:, None, None, :].float()) * -10000.0)
    return found


@pytest.mark.parametrize(("target", "depth"), [(0.2, 3), (0.8, 2)])
def test_tinybert_is_its_authors_loss(target: float, depth: int, tiny_tokenizer: Any) -> None:
    """huawei-noah/Pretrained-Language-Model, TinyBERT/task_distill.py: attention scores up to -1e2 become 0; MSE of
    scores, student i to teacher i m + m - 1, and of states through fit_dense, i to i m; then the mean over all entries
    of -softmax(teacher) log_softmax(student)."""
    case = example("tinybert", "encoder", tiny_tokenizer, target, model=SIX, compress={"minimum_rank": 2})
    assert len(case.student.layers) == depth and (case.student.spec.width == 16) == (depth == 3)
    share, dense = 6 // depth, case.objective.helper
    expected = torch.zeros(())
    teacher_scores, teacher_states = attention(case.teacher, case.batch), states(case.teacher, case.batch)
    for i, scores in enumerate(attention(case.student, case.batch)):
        own, other = (torch.where(x <= -1e2, 0.0, x) for x in (scores, teacher_scores[i * share + share - 1]))
        expected = expected + F.mse_loss(own, other)
    for i, state in enumerate(states(case.student, case.batch)):
        expected = expected + F.mse_loss(dense(state), teacher_states[i * share])  # type: ignore[misc]
    case.objective.on_step(0.49)  # type: ignore[misc]
    torch.testing.assert_close(case.loss(), expected, **EXACT)

    case.objective.on_step(0.5)  # type: ignore[misc]
    z_s, z_t = call(case.student, case.batch), call(case.teacher, case.batch).detach()
    soft = (-F.softmax(z_t, -1) * F.log_softmax(z_s, -1)).mean()
    entropy = (-F.softmax(z_t, -1) * F.log_softmax(z_t, -1)).mean()
    torch.testing.assert_close(case.loss(), soft - entropy, **EXACT)  # a constant apart, so that gradients agree
    weight = case.student.layers[0].up.weight
    ours, theirs = (torch.autograd.grad(loss, weight)[0] for loss in (case.loss(), soft))
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_theseus_mixes_layers_as_its_authors_do(tiny_tokenizer: Any) -> None:
    """JetRunner/BERT-of-Theseus, modeling_bert_of_theseus.py: for each successor layer i, Bernoulli(rate) == 1 runs it,
    else predecessor layers i r to (i + 1) r - 1 with r the ratio of depths; successors begin as the first layers."""
    case = example("theseus", "encoder", tiny_tokenizer, 0.4, model=SIX)
    mixed, batch = case.objective.stand_in, case.batch
    inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    student, teacher, mask = case.student.eval(), case.teacher, batch["attention_mask"].bool()
    assert len(student.layers) == 3 and mixed is not None
    mixed.rate = 1.0  # type: ignore[assignment]
    torch.testing.assert_close(mixed(*inputs), student(*inputs), **EXACT)
    mixed.rate = 0.5  # type: ignore[assignment]
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        coins = [bool(torch.rand(()) < 0.5) for _ in range(3)]
        seen.add(tuple(coins))
        state = student.embeddings(inputs[0], inputs[2])
        for i, coin in enumerate(coins):
            for layer in [student.layers[i]] if coin else [teacher.layers[2 * i], teacher.layers[2 * i + 1]]:
                state = layer(state, mask)
        torch.manual_seed(seed)
        torch.testing.assert_close(mixed(*inputs), student.classify(state, inputs[1]), **EXACT)
    assert len(seen) > 3
    mixed.rate = 0.0  # type: ignore[assignment]
    for name in ("embeddings", "pooler", "classifier"):  # noise was added to the student's
        getattr(student, name).load_state_dict(getattr(teacher, name).state_dict())
    logits = mixed(*inputs)
    torch.testing.assert_close(logits, teacher(*inputs), **EXACT)
    logits.sum().backward()  # the teacher's layers alone: nothing moves, and nothing fails
    moved = [p.grad.abs().sum() for p in student.parameters() if p.grad is not None]
    assert moved and not any(moved)


def test_theseus_trains_the_layers_alone_on_the_labels(tiny_tokenizer: Any) -> None:
    case = example("theseus", "encoder", tiny_tokenizer, 0.4, model=SIX)
    trained = {name for name, parameter in case.student.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in case.student.named_parameters() if name.startswith("layers.")}
    assert case.objective.teacher is False and all(p.requires_grad for p in case.teacher.parameters())
    torch.testing.assert_close(case.loss(), F.cross_entropy(call(case.student, case.batch), case.batch["labels"]))


def test_theseus_replaces_all_from_half_of_the_steps() -> None:
    """Its authors' linear schedule, min(k t + 0.3, 1), with k such that it ends at half of the steps."""
    assert replacing_rate(0.0) == 0.3 and replacing_rate(0.25) == pytest.approx(0.65)
    assert replacing_rate(0.5) == replacing_rate(1.0) == 1.0


@pytest.mark.parametrize("name", ["tinybert", "theseus"])
def test_one_cycle_in_the_same_run_directory(name: str, tiny_tokenizer: Any, tiny_data: Any, tmp_path: Any) -> None:
    recipe = recipe_of("encoder", tiny_tokenizer, compress={"method": name}, stop={"target_reduction": 0.3})
    result = run_of(name, recipe, tiny_data, tmp_path / name)
    best = load_model(Run.open(tmp_path / name), layout.BEST)
    assert len(best.spec.layers) == 1 and result.cycles[0].accepted
    assert "have no part in its loss" in "".join(result.notes)
    teacher = load_model(Run.open(tmp_path / name), layout.TEACHER)
    kept = torch.equal(best.embeddings.word.weight, teacher.embeddings.word.weight)
    assert kept == (name == "theseus")


@pytest.mark.parametrize("name", ["tinybert", "theseus", "crd"])
def test_several_processes_are_refused(name: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        find_method(name).check(recipe_of("encoder", tiny_tokenizer, compress={"method": name}), FAMILY)
