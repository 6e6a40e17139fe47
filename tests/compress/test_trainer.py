"""Training: continues exactly after a kill, keeps its best state, stops on a loss that is not finite."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.compress.training.distil import distillation_loss
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.training.trainer import OldLogits, Schedule, accuracy, rate, train
from rmtkd_edge.errors import TrainingError
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec

SPEC = EncoderSpec("bert", 40, 16, 0, 16, (LayerSpec(2, 8, 8, 32, 8**-0.5),), 16, ("a", "b"), dropout=0.1)
PLAN = Schedule(
    steps=30,
    learning_rate=3e-3,
    weight_decay=0.01,
    warmup=0.1,
    max_grad_norm=1.0,
    evaluate_every=10,
    alpha=0.5,
    temperature=2.0,
    dropout=0.1,
)


class Memory:
    def __init__(self):
        self.saved = None

    def load(self):
        return self.saved

    def save(self, step, tensors):
        self.saved = {k: v.clone() for k, v in tensors.items()}


def encoder(seed=0):
    torch.manual_seed(seed)
    model = Encoder(SPEC)
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.2)
        else:
            torch.nn.init.zeros_(p)
    for name, p in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.ones_(p)
    return model


def epoch(number):
    rng = np.random.default_rng(number)
    for start in range(0, 64, 8):
        ids = torch.tensor(rng.integers(1, 40, (8, 6)))
        labels = (ids[:, 1] > 20).long()
        yield {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": labels,
            "index": torch.arange(start, start + 8),
        }


def run(checkpoints, report=lambda *a, **k: None, plan=PLAN, model=None):
    model = model or encoder()
    accelerator = make_accelerator("no")
    old = OldLogits(encoder(1), 64, 2)
    batches = list(epoch(99))
    trained = train(
        model,
        old,
        lambda n: epoch(0),
        lambda m: accuracy(m, batches, accelerator),
        plan,
        accelerator,
        checkpoints,
        7,
        report,
    )
    return model, trained


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


def test_the_best_state_is_kept():
    model, trained = run(Memory())
    assert trained.accuracy == max(score for _, score in trained.history)
    assert accuracy(model, epoch(99), make_accelerator("no")) == trained.accuracy


def test_a_loss_that_is_not_finite_names_the_step():
    model = encoder()
    model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1 of 30"):
        run(Memory(), model=model)


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_rate_stays_in_range_and_ends_low(steps, warmup):
    rates = [rate(s, steps, warmup) for s in range(1, steps + 1)]
    assert all(0 < r <= 1 for r in rates)
    assert max(rates) == pytest.approx(1.0, abs=0.5 / max(1, steps * min(1, warmup + 0.01)) + 0.51)


@given(st.floats(0, 1), st.floats(0.5, 4))
def test_loss_is_cross_entropy_where_nothing_is_to_be_learnt_from_the_old_model(alpha, temperature):
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    same = distillation_loss(logits, logits, labels, alpha, temperature)
    torch.testing.assert_close(same, alpha * torch.nn.functional.cross_entropy(logits, labels), atol=1e-5, rtol=1e-4)
    assert distillation_loss(logits, torch.randn(5, 3), labels, alpha, temperature) >= same - 1e-5
