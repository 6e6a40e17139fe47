"""What every task must do, those that ship and installed ones: its loss trains, its divergence and metrics compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rmtkd_edge import plugins
from rmtkd_edge.tasks.base import Task, find_task
from rmtkd_edge.tasks.entity_metrics import label_codes
from rmtkd_edge.tasks.scoring import score

ROWS, LABELS, WIDTH, TOKENS = 24, 3, 5, 4


@pytest.fixture(params=plugins.names("tasks"))
def task(request: pytest.FixtureRequest) -> Task[Any]:
    return find_task(request.param)


def targets_of(task: Task[Any], numbers: torch.Tensor) -> torch.Tensor:
    """Return targets as tasks that predict so have them: classes, sets of labels, numbers, or embeddings."""
    if task.head == "embedding":
        table = torch.randn(LABELS, WIDTH, generator=torch.Generator().manual_seed(5))
        return F.normalize(table, dim=1)[numbers]
    if task.head == "token":
        return (numbers[:, None] + torch.arange(TOKENS)) % LABELS
    sets = torch.stack([numbers == 0, numbers != 1, numbers % 2 == 0], 1)
    return {"argmax": numbers, "sign": sets, "none": numbers * 0.7 + 0.1}[task.prediction]


def right(task: Task[Any], targets: torch.Tensor) -> np.ndarray:
    """Return outputs that predict these targets."""
    if task.head == "embedding":
        return targets.numpy()
    made = {
        "argmax": lambda: 9.0 * F.one_hot(targets, LABELS),
        "sign": lambda: 9.0 * (2.0 * targets - 1),
        "none": lambda: targets[:, None],
    }
    return made[task.prediction]().float().numpy()


def batch(task: Task[Any]) -> dict[str, torch.Tensor]:
    """A batch as far as a task that labels rows looks at it."""
    index = torch.arange(100, 100 + ROWS)
    codes = torch.tensor(label_codes(["O", "B-x", "I-x"])).repeat(ROWS, 1)
    found = {"index": index} | ({"codes": codes} if task.head == "token" else {})
    return dict.fromkeys(task.target_names, targets_of(task, torch.arange(ROWS) % LABELS)) | found


def outputs(task: Task[Any], seed: int) -> torch.Tensor:
    columns = WIDTH if task.head == "embedding" else 1 if task.prediction == "none" else LABELS
    shape = (ROWS, TOKENS, LABELS) if task.head == "token" else (ROWS, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_task_of_that_name(task: Task[Any]) -> None:
    assert isinstance(task, Task) and find_task(task.name) is task
    assert task.modality in ("text", "image") and task.known_metrics


def test_the_loss_is_finite_and_has_a_gradient(task: Task[Any]) -> None:
    found = outputs(task, 0).to(torch.bfloat16).requires_grad_()
    loss = task.loss(found, batch(task))
    assert loss.ndim == 0 and loss.isfinite() and loss.dtype == torch.float32
    (grad,) = torch.autograd.grad(loss, found)
    assert grad.isfinite().all() and grad.abs().sum() > 0


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_divergence_is_zero_for_equal_outputs_alone(task: Task[Any], temperature: float) -> None:
    old, new = outputs(task, 0), outputs(task, 1).requires_grad_()
    assert float(task.divergence(old, old, temperature)) == pytest.approx(0.0, abs=1e-6)
    found = task.divergence(old, new, temperature, batch(task))
    assert found.ndim == 0 and float(found.detach()) > 0
    (grad,) = torch.autograd.grad(found, new)
    assert grad.isfinite().all() and grad.abs().sum() > 0


def test_the_probe_has_a_gradient_that_belongs_to_the_row(task: Task[Any]) -> None:
    found = outputs(task, 0).requires_grad_()
    (whole,) = torch.autograd.grad(task.probe(found, batch(task), 4), found)
    half = {name: tensor[12:] for name, tensor in batch(task).items()}
    part = outputs(task, 0)[12:].requires_grad_()
    assert torch.equal(torch.autograd.grad(task.probe(part, half, 4), part)[0], whole[12:])
    assert not torch.equal(torch.autograd.grad(task.probe(found, batch(task), 5), found)[0], whole)


def test_metrics_hold_the_primary_one_and_right_outputs_score_best(task: Task[Any]) -> None:
    targets = [task.targets(batch(task))]
    best = right(task, targets_of(task, torch.arange(ROWS) % LABELS))
    primary = task.known_metrics[0]
    good, bad = task.metrics([best], targets), task.metrics([-best], targets)
    assert primary in good and set(good) <= set(task.known_metrics)
    assert all(good[name] >= bad[name] for name in good) and good[primary] > bad[primary]
    for name in set(task.known_metrics) - set(good):
        assert task.why_missing(name, [best], targets) and task.interval(name, [best], targets) is None
    found = score(task, None, "test", [outputs(task, 0).numpy()], targets, interval=True)
    assert found.rows == ROWS and found.primary == primary
    assert found.interval is None or found.interval[0] <= found.value <= found.interval[1]


def test_the_baseline_looks_at_no_input_and_right_outputs_beat_it(task: Task[Any]) -> None:
    uneven = (torch.arange(ROWS) % 2 * (torch.arange(ROWS) % 4 == 1)).split(10)
    parts = [targets_of(task, part) for part in uneven]
    targets = [task.targets({**batch(task), **dict.fromkeys(task.target_names, part)}) for part in parts]
    columns = outputs(task, 0).shape[-1]
    blind = task.baseline(targets, columns)
    best = task.metrics([right(task, part) for part in parts], targets)
    assert blind and set(blind) <= set(best) and all(best[name] > blind[name] for name in blind)
    for constant in outputs(task, 3).numpy():
        constant = np.broadcast_to(constant[:1], constant.shape) if task.head == "token" else constant
        rows = [np.repeat(constant[None], len(part), 0) for part in parts]
        assert all(task.metrics(rows, targets)[name] <= blind[name] + 1e-9 for name in blind)


def test_agreement_is_a_share(task: Task[Any]) -> None:
    a, b = outputs(task, 0).numpy(), outputs(task, 1).numpy()
    assert task.agreement(a, a) == 1.0 and 0.0 <= task.agreement(a, b, batch(task)) < 1.0
    assert task.agreement(a, b) == task.agreement(b, a)


# --- classification ---


@pytest.mark.parametrize("name", ["text-classification", "image-classification"])
def test_the_baseline_of_classifiers_answers_the_most_frequent_label(name: str) -> None:
    numbers = torch.tensor([2] * 6 + [0] * 3 + [1])
    found = find_task(name).baseline([numbers.numpy()], LABELS)
    assert found["accuracy"] == 0.6 and found["matthews_corrcoef"] == 0.0 and found["roc_auc"] == 0.5
    assert find_task(name).baseline([np.zeros(4, np.int64)], LABELS) == {}


@pytest.mark.parametrize("name", ["text-classification", "image-classification"])
def test_classifiers_distil_by_softened_probabilities(name: str) -> None:
    task = find_task(name)
    old, new = outputs(task, 0), outputs(task, 1)
    soft, target = F.log_softmax(new / 2, -1), F.softmax(old / 2, -1)
    wanted = 4 * F.kl_div(soft, target, reduction="batchmean")
    torch.testing.assert_close(task.divergence(old, new, 2.0), wanted)
    assert float(task.loss(new, batch(task))) == float(F.cross_entropy(new, batch(task)["labels"]))


@pytest.mark.parametrize("name", ["text-classification", "image-classification"])
@pytest.mark.parametrize("labels", [2, 5])
def test_a_shift_of_all_logits_does_not_move_the_probe(name: str, labels: int) -> None:
    rows = {"index": torch.arange(ROWS)}
    found = torch.zeros(ROWS, labels, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(find_task(name).probe(found, rows, 3), found)
    torch.testing.assert_close(grad.sum(1), torch.zeros(ROWS, dtype=torch.float64))
    assert (grad.abs().sum(1) > 0.5).all()


def test_the_scores_of_rows_are_those_of_the_metric_that_is_their_mean(task: Task[Any]) -> None:
    found, targets = outputs(task, 0).numpy(), task.targets(batch(task))
    for metric, value in task.metrics([found], [targets]).items():
        scores = task.row_scores(metric, found, targets)
        assert scores is None or scores.mean() == pytest.approx(value)
