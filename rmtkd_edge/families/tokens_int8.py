"""The int8 file of a model of tokens, dynamic or static."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.families.base import QuantiseOptions
from rmtkd_edge.families.dynamic_int8 import DynamicInt8, quantise_onnx
from rmtkd_edge.families.static_products import StaticInt8, quantise_static

if TYPE_CHECKING:
    from torch import Tensor


def quantise(
    source: Path, target: Path, calibration: Sequence[Mapping[str, Tensor]], options: QuantiseOptions
) -> dict[str, Any]:
    """Write the int8 file of an fp32 one and return how it was made."""
    rows = {"calibration_rows": sum(len(batch["input_ids"]) for batch in calibration)}
    if options.scales == "static":
        static = StaticInt8(reduce_range=options.reduce_range)
        kept = quantise_static(source, target, static, calibration=calibration, threads=options.threads)
        return {"format": "QDQ", **asdict(static), "float": kept, **rows}
    how = DynamicInt8(reduce_range=options.reduce_range)
    quantise_onnx(source, target, how, calibration=calibration, threads=options.threads)
    return {**asdict(how), **rows}
