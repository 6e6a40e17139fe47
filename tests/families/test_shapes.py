"""Shapes that no machine could build are refused by their product too, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

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
