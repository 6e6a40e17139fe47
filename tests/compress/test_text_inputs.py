"""Which rows of a text task the spectra, their weights and the warm start look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmtkd_edge.compress.text_inputs import text_inputs
from rmtkd_edge.recipe import Compress, parse_recipe


def rows_of(batches: Callable[[], Any]) -> set[int]:
    """The numbers of the rows that one pass looks at."""
    return {int(i) for batch in batches() for i in batch["index"]}


@pytest.mark.parametrize("most", [50, 5000])
def test_spectra_take_no_more_rows_than_asked_and_the_warm_start_is_not_touched(
    most: int, tiny_recipe_dict: dict[str, Any], tiny_data: Path
) -> None:
    changes = {"analyse": {"minimum_rows": 400, "weighting_rows": 128, "maximum_rows": most}}
    data = text_inputs(parse_recipe({**tiny_recipe_dict, **changes}, "test"), tiny_data).data
    whole = text_inputs(parse_recipe(tiny_recipe_dict, "test"), tiny_data).data
    assert len(rows_of(data.calibration)) == min(most, 400)
    assert rows_of(data.calibration) <= rows_of(whole.calibration)
    assert rows_of(data.warm) == rows_of(whole.warm) and rows_of(data.effect) == rows_of(whole.effect)


def test_fewer_tokens_are_fitted_where_fine_tuning_follows() -> None:
    assert Compress(one_shot=True).fitted_tokens > Compress().fitted_tokens
    assert {Compress(one_shot=shot, warm_start_tokens=7).fitted_tokens for shot in (True, False)} == {7}
