"""Shapes that no machine could build are refused by their product, before anything is built; others export right."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from random_shapes import check, outcome, random_spec

from rmtkd_edge.families.base import find_family


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("encoder", {"layers": 256, "width": 65_536, "heads": 64, "ffn": 65_536}),
        ("encoder", {"layers": 48, "width": 8192, "heads": 64}),
        ("encoder", {"width": 65_536, "heads": 64, "max_positions": 1_048_576}),
        ("resnet", {"depth": 101, "width": 4096}),
    ],
)
def test_a_shape_that_no_machine_holds_is_refused(family: str, shape: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"weights|less than or equal"):
        find_family(family).shape.model_validate(shape)


def test_large_shapes_that_people_train_are_not() -> None:
    large = {"layers": 24, "width": 1024, "heads": 16, "ffn": 4096, "max_positions": 8192}
    assert find_family("encoder").shape.model_validate(large)
    assert find_family("resnet").shape.model_validate({"depth": 50, "width": 128})


def test_a_random_shape_is_a_function_of_its_number() -> None:
    shapes = [random_spec(1, number) for number in range(60)]
    assert shapes == [random_spec(1, number) for number in range(60)]
    assert all(a != b for i, a in enumerate(shapes) for b in shapes[:i])
    assert {shape.family for shape in shapes} == {"encoder", "resnet"}
    assert {shape.model_type for shape in shapes if shape.family == "encoder"} >= {"bert", "distilbert", "electra"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_random_shapes_export_right_in_both_graphs(number: int) -> None:
    """tools/random_shapes.py runs hundreds of them."""
    for graph, found in check(random_spec(1, number), number).items():
        assert outcome(found) in ("right", "int8 refused"), (graph, found)
