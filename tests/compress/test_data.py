"""The batches of a compression: which rows they hold, and that they start again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rmtkd_edge.compress.data import Data, make_data
from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.tasks.base import find_task


def data_of(recipe_dict: dict[str, Any], folder: Path, **analyse: Any) -> Data:
    recipe = parse_recipe({**recipe_dict, "analyse": analyse}, "test")
    task = find_task(recipe.task.kind)
    return make_data(task, task.load(recipe, folder), recipe)


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own(
    tiny_recipe_dict: dict[str, Any], tiny_data: Path
) -> None:
    data = data_of(tiny_recipe_dict, tiny_data)
    first, again, second = (torch.cat([b["index"] for b in data.epoch(32, 5, n)]) for n in (0, 0, 1))
    assert sorted(first.tolist()) == list(range(data.rows)) == sorted(second.tolist())
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert data.steps(32) == sum(1 for _ in data.epoch(32, 5, 0))


def test_fewer_tokens_are_fitted_where_fine_tuning_follows() -> None:
    assert Compress(one_shot=True).fitted_tokens > Compress().fitted_tokens
    assert {Compress(one_shot=shot, warm_start_tokens=7).fitted_tokens for shot in (True, False)} == {7}
