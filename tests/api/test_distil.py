"""`distil`: what is trained, which state is kept, and what is refused before any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from api.own_sample import Batches, Own, accuracy, logits, without
from torch import Tensor

import rmtkd_edge as rk
from rmtkd_edge.config.recipe import Distil
from rmtkd_edge.errors import DataError, RecipeError, TrainingError, UserError
from rmtkd_edge.run.reporter import SilentReporter

Cut = tuple[rk.Plan, Any]


class Heard(SilentReporter):
    """Keeps the steps that were reported."""

    def __init__(self) -> None:
        self.validated: list[int] = []

    def event(self, event: str, /, **facts: Any) -> None:
        if event == "validation":
            self.validated.append(facts["step"])


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def distance(model: Any, teacher: Any, batches: Batches) -> float:
    pairs = [(logits(model, b).softmax(1), logits(teacher, b).softmax(1)) for b in batches]
    return float(torch.stack([(a - b).abs().mean() for a, b in pairs]).mean())


@pytest.mark.parametrize("how", ["function", "batches"])
def test_the_best_state_is_kept(bert: Own, cut: Cut, how: str) -> None:
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


def test_a_metric_that_falls_keeps_the_first_state_that_was_looked_at(bert: Own, cut: Cut) -> None:
    marks: Iterator[int] = iter(range(0, -100, -1))
    options = Distil(steps=6, evaluate_every=2, learning_rate=1e-2)
    kept = rk.distil(cut[1], bert.model, bert.batches, evaluate=lambda model: next(marks), options=options)
    longer = rk.distil(cut[1], bert.model, bert.batches, options=options)
    assert next(marks) == -3 and not same(kept, longer) and not same(kept, cut[1])


def test_without_evaluate_the_last_state_is_kept_and_the_seed_decides_it(bert: Own, cut: Cut) -> None:
    first, again = (rk.distil(cut[1], bert.model, bert.batches, steps=5, seed=3) for _ in range(2))
    longer = rk.distil(cut[1], bert.model, bert.batches, steps=10, seed=3)
    assert same(first, again) and not same(first, longer)


def test_the_students_device_is_where_it_is_judged_and_comes_back(bert: Own, cut: Cut) -> None:
    places = []

    def evaluate(model: Any) -> float:
        places.append(next(model.parameters()).device)
        return 0.0

    student = rk.distil(cut[1], bert.model, bert.batches, evaluate=evaluate, steps=2)
    assert {*places, next(student.parameters()).device} == {next(cut[1].parameters()).device}


def test_without_steps_it_trains_for_the_epochs_of_the_options(bert: Own, cut: Cut) -> None:
    heard = Heard()
    options = Distil(epochs=2, evaluate_every=1)
    rk.distil(cut[1], bert.model, bert.batches[:3], options=options, reporter=heard)
    assert heard.validated == [1, 2, 3, 4, 5, 6]


def test_without_labels_the_teacher_alone_teaches(bert: Own, cut: Cut) -> None:
    unlabelled = without(bert.batches, "labels")
    options = Distil(alpha=0.0, learning_rate=1e-3, temperature=1.0)
    student = rk.distil(cut[1], bert.model, unlabelled, steps=60, options=options)
    assert distance(student, bert.model, bert.batches) < distance(cut[1], bert.model, bert.batches)


def test_labels_alone_teach_what_the_teacher_does_not_know(resnet: Own) -> None:
    spectra = rk.analyse(resnet.model, resnet.batches[:4], sites=["layer.4.block.1.conv1"])
    plan = rk.plan(spectra, quantile=0.5, align=1)
    student = rk.compress(resnet.model, plan, resnet.batches[:4])
    options = Distil(alpha=1.0, learning_rate=3e-3, steps=20)
    taught = rk.distil(student, resnet.model, resnet.batches[:-4], options=options, evaluate=resnet.batches[-4:])
    assert student.spec == plan.after == taught.spec and plan.reduction > 0
    assert accuracy(taught, resnet.batches[-4:]) > max(0.8, accuracy(student, resnet.batches[-4:]))


@pytest.mark.parametrize("method", ["rmt-kd", "plain-kd"])
def test_the_objective_of_either_method_brings_the_student_nearer(bert: Own, cut: Cut, method: str) -> None:
    options = Distil(alpha=0.0, learning_rate=1e-3)
    student = rk.distil(cut[1], bert.model, bert.batches, steps=40, method=method, options=options)
    assert distance(student, bert.model, bert.batches) < distance(cut[1], bert.model, bert.batches)


def test_a_method_refuses_what_it_cannot_follow(bert: Own, cut: Cut) -> None:
    with pytest.raises(RecipeError, match=r"distil\.match"):
        rk.distil(cut[1], bert.model, bert.batches, steps=1, method="plain-kd", options=Distil(match=1.0))


def test_a_second_cycle_starts_from_the_student(bert: Own, cut: Cut) -> None:
    plan = rk.plan(rk.analyse(cut[1], bert.batches), reduction=0.2, align=2)
    again = rk.distil(rk.compress(cut[1], plan, bert.batches), cut[1], bert.batches, steps=3)
    assert plan.before == cut[0].after and again.spec == plan.after
    assert plan.parameters_before == cut[0].parameters_after > plan.parameters_after


def test_what_cannot_be_trained_is_refused(bert: Own, cut: Cut) -> None:
    unlabelled = without(bert.batches, "labels")

    def distil(loader: Any = bert.batches, **options: Any) -> Any:
        return rk.distil(cut[1], bert.model, loader, **{"steps": 2, **options})

    with pytest.raises(DataError, match=r"training batches have no `labels`") as caught:
        distil(unlabelled)
    assert "alpha=0" in caught.value.hint
    with pytest.raises(DataError, match=r"validation batches have no `labels`"):
        distil(evaluate=unlabelled)
    with pytest.raises(DataError, match="no batch"):
        distil([])
    with pytest.raises(UserError, match="evaluate returned None"):
        distil(evaluate=lambda model: None)
    with pytest.raises(UserError, match="steps is 0"):
        distil(steps=0)
    with pytest.raises(RecipeError, match="did you mean `rmt-kd`"):
        distil(method="rmtkd")
    with pytest.raises(RecipeError, match="no `text` among the tasks"):
        distil(task="text")


def test_a_loss_that_is_not_finite_stops_and_leaves_the_student(bert: Own, cut: Cut) -> None:
    def broken() -> Iterator[dict[str, Tensor]]:
        yield from bert.batches[:1]

    teacher = rk.from_transformers(bert.module)
    with torch.no_grad():
        next(teacher.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1"):
        rk.distil(cut[1], teacher, broken(), steps=2)
    assert all(bool(p.isfinite().all()) for p in cut[1].parameters())
