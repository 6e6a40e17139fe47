"""What every method owes: its own name and a family that it serves; and the loss that distillation minimises."""

from __future__ import annotations

import pytest
import torch
from contract_sample import recipe_of, serves
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge import plugins
from rmtkd_edge.methods.base import Seen, distillation, find_method
from rmtkd_edge.tasks.text_classification import TASK


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_methods_are_found_under_their_own_names(name, tiny_tokenizer):
    method = find_method(name)
    assert method.name == name and method.title and find_method(name) is method
    assert any(serves(name, family, tiny_tokenizer) for family in plugins.names("families"))
    recipe = recipe_of("encoder", tiny_tokenizer, compress={"method": name})
    assert method.settings(recipe).model == recipe.model


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
