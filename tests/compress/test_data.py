"""Which rows of a text task the spectra, their weights and the warm start look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmtkd_edge.compress.text_inputs import text_inputs
from rmtkd_edge.config.recipe import Compress, parse_recipe


def rows_of(batches: Callable[[], Any]) -> set[int]:
    """The numbers of the rows that one pass looks at."""
    return {int(i) for batch in batches() for i in batch["index"]}


@pytest.mark.parametrize(("least", "most", "taken"), [(20, 50, 50), (20, 5000, 420), (100, 50, 100)])
def test_spectra_take_no_more_rows_than_asked_and_the_warm_start_is_not_touched(
    least: int, most: int, taken: int, tiny_recipe_dict: dict[str, Any], tiny_data: Path
) -> None:
    rows = {"calibration": 0.7, "minimum_rows": least, "weighting_rows": 128}  # 420 of 600
    recipes = [{**tiny_recipe_dict, "analyse": analyse} for analyse in ({**rows, "maximum_rows": most}, rows)]
    data, whole = (text_inputs(parse_recipe(recipe, "test"), tiny_data).data for recipe in recipes)
    assert len(rows_of(data.calibration)) == taken
    assert rows_of(data.calibration) <= rows_of(whole.calibration)
    assert rows_of(data.warm) == rows_of(whole.warm) and rows_of(data.effect) == rows_of(whole.effect)


def test_fewer_tokens_are_fitted_where_fine_tuning_follows() -> None:
    assert Compress(one_shot=True).fitted_tokens > Compress().fitted_tokens
    assert {Compress(one_shot=shot, warm_start_tokens=7).fitted_tokens for shot in (True, False)} == {7}
