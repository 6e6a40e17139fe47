"""Dynamic int8: close to fp32, all weights in 8 bits, in 7 where the target's sums saturate."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from families.encoder.sample import KINDS, make_batch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.families.dynamic_int8 import DynamicInt8, quantise_onnx
from rmtkd_edge.families.smooth import second_products, smooth, smoothing_scale
from rmtkd_edge.sessions import open_session, run_session


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_close_and_small(graphs, kind):
    case = graphs[kind]
    batch = make_batch(8, 20)
    exact = run_session(open_session(case.path, threads=1), batch)
    rough = run_session(open_session(case.int8, threads=1), batch)
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_stays_float(graphs, kind):
    model = onnx.load(str(graphs[kind].int8))
    kinds = {item.name: item.data_type for item in model.graph.initializer if len(item.dims) == 2}
    assert set(kinds.values()) == {onnx.TensorProto.INT8}
    weights = [
        onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name in kinds and "embeddings" not in i.name
    ]
    assert max(np.abs(w.astype(int)).max() for w in weights) <= 64  # seven bits: AVX2 sums pairs in 16 bits


def test_a_table_is_within_half_a_step_of_its_column(graphs):
    exact = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(graphs["bert"].path)).graph.initializer}
    rough = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(graphs["bert"].int8)).graph.initializer}
    name = "embeddings.word.weight"
    step = rough[f"{name}_scale"]
    error = np.abs(rough[f"{name}_quantized"] * step - exact[name])
    assert (error <= step * (0.5 + 1e-5)).all()


def test_smoothing_changes_no_logit_and_evens_out_the_weights(graphs):
    case, batch = graphs["bert"], make_batch(8, 20)
    model = onnx.load(str(case.path))
    weights = {item.name: item for item in model.graph.initializer}
    last = list(second_products(model))[-1]
    (name,) = [node.input[1] for node in model.graph.node if node.name == last]
    uneven = onnx.numpy_helper.to_array(weights[name]) * np.geomspace(1e-3, 1e3, weights[name].dims[0])[:, None]
    weights[name].CopyFrom(onnx.numpy_helper.from_array(uneven.astype(np.float32), name))
    before = run_session(session_of(model), batch)
    assert smooth(model, [batch], 0.5) == 2
    np.testing.assert_allclose(run_session(session_of(model), batch), before, rtol=1e-3, atol=1e-4)
    even = onnx.numpy_helper.to_array(weights[name])
    assert spread(even) < 0.01 * spread(uneven)


def spread(matrix):
    rows = np.abs(matrix).max(axis=1)
    return rows.max() / rows.min()


def session_of(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@given(hnp.arrays(np.float32, (2, 7), elements=st.floats(0, 2.0**12, width=32)), st.floats(0, 1))
def test_smoothing_scales_are_finite_positive_and_of_mean_one(maxima, alpha):
    scale = smoothing_scale(maxima[0], maxima[1], alpha)
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert np.log(scale).mean() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("options", [DynamicInt8(per_channel=False), DynamicInt8(weight="uint8", reduce_range=False)])
def test_other_ways_run_too(graphs, tmp_path, options):
    counts = quantise_onnx(graphs["bert"].path, tmp_path / "other.onnx", options)
    assert counts["MatMulInteger"] == 14
    run_session(open_session(tmp_path / "other.onnx", threads=1), make_batch())


def test_eight_bits_are_used_where_sums_do_not_saturate(graphs, tmp_path):
    quantise_onnx(graphs["bert"].path, tmp_path / "full.onnx", DynamicInt8(reduce_range=False))
    model = onnx.load(str(tmp_path / "full.onnx"))
    weights = [onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    assert max(np.abs(w.astype(int)).max() for w in weights if w.ndim == 2) > 64


def test_a_file_that_a_full_disk_cut_off_is_told(graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime.quantization

    def cut_off(_: object, target: str, **__: object) -> None:  # native code writes what fits, and says nothing
        Path(target).write_bytes(graphs["bert"].path.read_bytes()[:1000])

    monkeypatch.setattr(onnxruntime.quantization, "quantize_dynamic", cut_off)
    with pytest.raises(RunDirError, match="cannot be read again") as told:
        quantise_onnx(graphs["bert"].path, tmp_path / "a.onnx", DynamicInt8())
    assert "free space" in told.value.hint and not list(tmp_path.iterdir())
