"""Predicted latency from a device's curves: narrower is never slower."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.config.hardware import Calibration, curve_macs
from rmtkd_edge.families.base import list_sites
from rmtkd_edge.families.resnet import FAMILY
from rmtkd_edge.families.resnet.spec import BlockSpec, ResNetSpec, StageSpec

STAGES = (StageSpec(16, (BlockSpec((16,)),)), StageSpec(32, (BlockSpec((32,), 2, True),)))
SPEC = ResNetSpec("basic", "cifar", 16, STAGES, ("a", "b"), image_size=32)


def curves(ns: float, slope: float = 0.0) -> Calibration:
    """A device that takes `ns` nanoseconds a multiply-accumulate at width 64, and less by the power `slope` beyond."""
    return Calibration(
        profile="x",
        provider="CPUExecutionProvider",
        processor="elsewhere",
        onnxruntime="1",
        threads=1,
        contended=0,
        conv={64: 1.0},
        gemm={64: 1.0},
        conv_sizes={w: ns * (w / 64) ** -slope * curve_macs("conv", w) / 1e6 for w in (8, 64, 512)},
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data(), slope=st.floats(0, 0.9))
def test_narrower_is_never_slower_and_a_faster_device_is_faster(data: st.DataObject, slope: float) -> None:
    site = data.draw(st.sampled_from([s for s in list_sites(SPEC) if not s.latent]))
    narrow = SPEC.with_ranks({site.name: data.draw(st.integers(1, site.width))})
    before, after = (FAMILY.predict_ms(spec, curves(1.0, slope), 0) for spec in (SPEC, narrow))
    assert 0 < after <= before * (1 + 1e-9)
    assert FAMILY.predict_ms(SPEC, curves(2.0, slope), 0) == pytest.approx(2 * before)


def test_a_constant_rate_counts_multiply_accumulates() -> None:
    macs = sum(c.kernel**2 * c.side**2 * c.inputs * c.outputs for c in SPEC.convolutions())
    assert FAMILY.predict_ms(SPEC, curves(3.0), 0) == pytest.approx(3e-6 * macs)
