"""Training: continues exactly after a kill, keeps its best state, stops on a loss that is not finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.training.evaluate import evaluate
from rmtkd_edge.compress.training.schedule import Schedule, rate
from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs
from rmtkd_edge.compress.training.trainer import Training, train
from rmtkd_edge.errors import TrainingError
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.methods.base import Objective, distillation
from rmtkd_edge.tasks.text_classification import TASK

SPEC = EncoderSpec("bert", 40, 16, 0, 16, (LayerSpec(2, 8, 8, 32, 8**-0.5),), 16, ("a", "b"), dropout=0.1)
PLAN = Schedule(
    steps=30, learning_rate=3e-3, weight_decay=0.01, warmup=0.1, max_grad_norm=1.0, evaluate_every=10, dropout=0.1
)


class Memory:
    def __init__(self):
        self.saved = None

    def load(self):
        return self.saved

    def save(self, step, tensors):
        self.saved = {k: v.clone() for k, v in tensors.items()}


def encoder(seed=0):
    model = FAMILY.initialise(FAMILY.build(SPEC), seed)
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.2)
    return model


def epoch(number):
    rng = np.random.default_rng(number)
    for start in range(0, 64, 8):
        ids = torch.tensor(rng.integers(1, 40, (8, 6)))
        labels = (ids[:, 1] > 20).long()
        index = torch.arange(start, start + 8)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "index": index}


def validate(model):
    return evaluate(model, TASK, epoch(99), make_accelerator(), "validation", None)


def run(checkpoints, report=lambda *a, **k: None, plan=PLAN, model=None):
    model = model or encoder()
    teacher = TeacherOutputs(encoder(1), 64)
    training = Training(plan, distillation(TASK, 0.5, 2.0), lambda n: epoch(0), validate, 7, teacher)
    return model, train(model, training, make_accelerator(), checkpoints, report)


def test_killed_and_continued_is_the_same_as_uninterrupted():
    whole, figures = run(Memory())
    checkpoints = Memory()

    def kill(kind, **facts):
        if kind == "step" and facts["step"] >= 20 and checkpoints.saved is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, kill)
    again, later = run(checkpoints)
    assert later == figures
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_a_helper_is_trained_kept_and_never_part_of_the_model():
    """A module of the objective's own: killed and continued it is the same, and the optimiser moves it."""

    def run_with_helper(checkpoints, report=lambda *a, **k: None):
        torch.manual_seed(3)
        helper, model = torch.nn.Linear(16, 1), encoder()
        loss = lambda seen, batch, _: (helper(seen.taps["pooler"]).squeeze(1) - batch["labels"]).square().mean()
        objective = Objective(loss, teacher=False, taps=("pooler",), helper=helper)
        training = Training(PLAN, objective, lambda n: epoch(0), validate, 7)
        return helper, model, train(model, training, make_accelerator(), checkpoints, report)

    def kill(kind, **facts):
        if kind == "step" and facts["step"] >= 20 and checkpoints.saved is not None:
            raise KeyboardInterrupt

    whole, model, figures = run_with_helper(Memory())
    torch.manual_seed(3)
    assert not torch.equal(whole.weight, torch.nn.Linear(16, 1).weight)
    assert model.state_dict().keys() == encoder().state_dict().keys()
    checkpoints = Memory()
    with pytest.raises(KeyboardInterrupt):
        run_with_helper(checkpoints, kill)
    again, other, later = run_with_helper(checkpoints)
    assert later == figures and torch.equal(again.weight, whole.weight)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_best_state_is_kept():
    model, trained = run(None)
    assert trained.scores.value == max(score for _, score in trained.history)
    assert validate(model) == trained.scores


def test_a_loss_that_is_not_finite_names_the_step():
    model = encoder()
    model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1 of 30"):
        run(None, model=model)


def test_activations_are_collected_from_both_models():
    told = []

    def loss(student, batch, teacher):
        told.append((sorted(student.taps), sorted(teacher.taps)))
        return sum((student.taps[name] - teacher.taps[name]).square().mean() for name in student.taps)

    names = []
    encoder()(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long), tap=lambda n, x: names.append(n))
    taps = (names[0], names[-1])
    teacher = TeacherOutputs(encoder(1), 64, taps=taps)
    training = Training(replace(PLAN, steps=2), Objective(loss, taps=taps), lambda n: epoch(0), validate, 7, teacher)
    train(encoder(), training, make_accelerator())
    assert told == [(sorted(set(taps)),) * 2] * 2


@pytest.mark.parametrize("asks_for_states", [False, True])
def test_in_half_precision_what_is_kept_of_the_teacher_is_exact(asks_for_states):
    names, shown = [], []
    encoder()(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long), tap=lambda n, x: names.append(n))
    taps = tuple(names[-1:]) if asks_for_states else ()

    def loss(student, batch, teacher):
        assert student.outputs.dtype == torch.bfloat16 and teacher.outputs.dtype == torch.float32
        shown.append((teacher.outputs, batch))
        return student.outputs.float().square().mean()

    teacher = TeacherOutputs(encoder(1), 64, taps=taps)
    training = Training(replace(PLAN, steps=3), Objective(loss, taps=taps), lambda n: epoch(0), validate, 7, teacher)
    assert train(encoder(), training, make_accelerator("bf16")).steps == 3
    for outputs, batch in shown:
        with torch.no_grad():
            exact = encoder(1).eval()(batch["input_ids"], batch["attention_mask"])
        assert torch.equal(outputs, exact) == (not asks_for_states)
        torch.testing.assert_close(outputs, exact, rtol=0.05, atol=0.05)


class Counting(torch.nn.Module):
    """Counts its calls; its outputs (B, tokens) or (B, 3) are token ids."""

    spec = SPEC
    asked = 0

    def __init__(self, per_token):
        super().__init__()
        self.per_token = per_token

    def forward(self, ids, mask):
        self.asked += 1
        return ids.float() if self.per_token else ids[:, :3].float()


@pytest.mark.parametrize(
    ("per_token", "fresh", "lengths", "asked"),
    [(False, False, (4, 5, 4), 1), (False, True, (4, 5), 2), (True, False, (4, 5, 4), 3)],
)
def test_a_teacher_is_asked_once_a_row_unless_rows_or_shapes_change(per_token, fresh, lengths, asked):
    model = Counting(per_token)
    outputs = TeacherOutputs(model, 9, fresh=fresh)
    for length in lengths:
        ids = torch.arange(length).repeat(2, 1)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "index": torch.tensor([3, 1])}
        assert torch.equal(outputs.of(batch).outputs, (ids if per_token else ids[:, :3]).float())
    assert model.asked == asked


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_rate_stays_in_range_and_ends_low(steps, warmup):
    rates = [rate(s, steps, warmup) for s in range(1, steps + 1)]
    assert all(0 < r <= 1 for r in rates)
    assert max(rates) == pytest.approx(1.0, abs=0.5 / max(1, steps * min(1, warmup + 0.01)) + 0.51)
