"""What every method owes: its own name, an objective, and the loss that distillation minimises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge import plugins
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.methods.base import Seen, distillation, find_method
from rmtkd_edge.tasks.text_classification import TASK

NOTHING: Any = None  # of a pair of models that these settings do not look at


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_methods_are_found_under_their_own_names(name, tiny_recipe_dict):
    method = find_method(name)
    recipe = parse_recipe({**tiny_recipe_dict, "compress": {"method": name}}, "test")
    assert method.name == name and method.title
    method.check(recipe, FAMILY)
    logits = torch.randn(4, 2, requires_grad=True)
    objective = method.objective(TASK, recipe, NOTHING)
    batch = {"labels": torch.tensor([0, 1, 1, 0]), "index": torch.arange(4)}
    taps = {tap: torch.randn(4, 3, requires_grad=True) for tap in objective.taps}
    loss = objective.loss(Seen(logits, taps), batch, Seen(torch.randn(4, 2), taps))
    loss.backward()
    assert loss.ndim == 0 and logits.grad is not None


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0.5, 4))
def test_loss_is_the_tasks_own_where_nothing_is_to_be_learnt_from_the_teacher(alpha, temperature):
    torch.manual_seed(0)
    logits, batch = torch.randn(5, 3), {"labels": torch.tensor([0, 1, 2, 0, 1])}
    loss = distillation(TASK, alpha, temperature).loss
    same = loss(Seen(logits), batch, Seen(logits))
    torch.testing.assert_close(same, alpha * TASK.loss(logits, batch), atol=1e-5, rtol=1e-4)
    assert loss(Seen(logits), batch, Seen(torch.randn(5, 3))) >= same - 1e-5
    assert loss(Seen(logits), batch, None) == TASK.loss(logits, batch)
    assert distillation(TASK, 1.0, 1.0).teacher is False and distillation(TASK, 0.5, 1.0).teacher is True
