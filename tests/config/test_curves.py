"""The curves of a calibrated device: time of a multiply-accumulate by width."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.config.hardware import Calibration, curve_macs


def curves(ns: float = 1.0, slope: float = 0.0) -> Calibration:
    """A device that takes `ns` nanoseconds a multiply-accumulate at width 64, and less by the power `slope` beyond."""
    made: dict[str, Any] = {}
    for kind in ("conv", "gemm"):
        sizes = {w: ns * (w / 64) ** -slope * curve_macs(kind, w) / 1e6 for w in (8, 64, 512)}
        made |= {kind: {64: 1.0}, f"{kind}_sizes": sizes}
    known = {"profile": "x", "provider": "CPUExecutionProvider", "processor": "elsewhere", "onnxruntime": "1"}
    return Calibration(**known, threads=1, contended=0, **made)


@given(st.sampled_from(["conv", "gemm"]), st.floats(1, 5000), st.floats(0.01, 100), st.floats(0, 0.9))
def test_between_its_points_a_curve_is_read_by_powers(kind: Any, width: float, ns: float, slope: float) -> None:
    expected = ns * (min(max(width, 8), 512) / 64) ** -slope
    assert curves(ns, slope).ns_per_mac(kind, width) == pytest.approx(expected, rel=1e-6)


@given(st.floats(8, 512), st.floats(1, 20), st.integers(1, 10_000))
def test_few_pixels_share_the_cost_of_the_weights(width: float, factor: float, pixels: int) -> None:
    few = {w: factor * curve_macs("conv_few", w) / 1e6 for w in (8, 64, 512)}
    found = curves(1.0).model_copy(update={"conv_few_sizes": few})
    assert found.ns_per_mac("conv", width, 16) == pytest.approx(factor)
    assert found.ns_per_mac("conv", width, 8 * 16 * 16) == pytest.approx(1.0)
    assert found.ns_per_mac("conv", width, pixels) >= found.ns_per_mac("conv", width, pixels + 1)
    whole = pixels * found.ns_per_mac("conv", width, pixels)  # more pixels never take less time
    assert whole <= (pixels + 1) * found.ns_per_mac("conv", width, pixels + 1) * (1 + 1e-12)


def test_a_calibration_without_sizes_says_so() -> None:
    old = curves().model_copy(update={"gemm_sizes": {}})
    with pytest.raises(ValueError, match="gemm_sizes"):
        old.ns_per_mac("gemm", 64)
