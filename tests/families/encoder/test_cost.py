"""Predicted latency of an encoder from a device's curves: narrower is never slower."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.config.hardware import Calibration, curve_macs
from rmtkd_edge.families.base import list_sites
from rmtkd_edge.families.encoder.cost import predict_ms, products
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec

SPEC = EncoderSpec("bert", 100, 32, 2, 32, (LayerSpec(2, 16, 16, 128, 0.25),) * 2, 32, ("a", "b"))


def curves(ns: float = 1.0, slope: float = 0.0) -> Calibration:
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
        gemm_sizes={w: ns * (w / 64) ** -slope * curve_macs("gemm", w) / 1e6 for w in (8, 64, 512)},
    )


def test_what_is_no_product_is_counted_by_its_elements() -> None:
    device = curves().model_copy(update={"ns_per_element": {"gelu": 2.0, "softmax": 3.0, "norm": 5.0}})
    more = predict_ms(SPEC, device, 16) - predict_ms(SPEC, curves(), 16)
    assert more == pytest.approx(1e-6 * 16 * (2.0 * 256 + 3.0 * 2 * 2 * 16 + 5.0 * 5 * 32))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), slope=st.floats(0, 0.9))
def test_narrower_is_never_slower_and_a_faster_device_is_faster(data: st.DataObject, slope: float) -> None:
    site = data.draw(st.sampled_from([s for s in list_sites(SPEC) if not s.latent]))
    narrow = SPEC.with_ranks({site.name: data.draw(st.integers(1, site.width))})
    before, after = (predict_ms(spec, curves(1.0, slope), 16) for spec in (SPEC, narrow))
    assert 0 < after <= before * (1 + 1e-9)
    assert predict_ms(SPEC, curves(2.0, slope), 16) == pytest.approx(2 * before)


def test_the_products_are_the_linear_layers_and_the_scores() -> None:
    tokens = 16
    per_layer = 4 * 32 * 32 + 2 * 32 * 128 + 2 * 32 * tokens
    assert sum(m * n for m, n in products(SPEC, tokens)) == 2 * per_layer
