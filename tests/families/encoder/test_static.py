"""Static int8: standard operators that onnxruntime fuses, close to fp32, and what stays float is named."""

import numpy as np
import onnx
import pytest
from families.encoder.sample import make_batch
from onnx.reference import ReferenceEvaluator

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import DataError
from rmtkd_edge.export.audit import audit_optimised, count_ops
from rmtkd_edge.families.base import QuantiseOptions, find_family
from rmtkd_edge.families.encoder.graph import GraphOptions, export
from rmtkd_edge.families.static_products import StaticInt8, input_scale, int8_weight, quantise_static
from rmtkd_edge.sessions import open_session, run_session

ROWS = [make_batch(8, 20, seed=5)]


@pytest.fixture(scope="module")
def portable(tmp_path_factory, graphs):
    """The portable fp32 file of the BERT of `graphs`, and its static int8 one."""
    folder = tmp_path_factory.mktemp("static")
    path, static = folder / "model.onnx", folder / "int8.onnx"
    export(graphs["bert"].encoder, path, GraphOptions.of(Export(graph="portable")))
    assert quantise_static(path, static, calibration=ROWS) == {}
    return path, static


def test_it_is_standard_and_close(portable):
    static = portable[1]
    model, batch = onnx.load(str(static)), make_batch(8, 20)
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)
    exact, found = (run_session(open_session(file, threads=1), batch) for file in portable)
    assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
    model.opset_import[0].version = 19  # the evaluator has no DequantizeLinear of opsets 13 to 18
    inputs = {item.name: batch[item.name].numpy() for item in model.graph.input}
    (evaluated,) = ReferenceEvaluator(model).run(None, inputs)
    assert np.abs(evaluated - found).max() < 2e-2 * np.abs(exact).max()


def test_openvino_computes_it(portable):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled, batch = openvino.Core().compile_model(str(portable[1]), "CPU", settings), make_batch(8, 20)
    exact = run_session(open_session(portable[0], threads=1), batch)
    found = compiled({item.any_name: batch[item.any_name].numpy() for item in compiled.inputs})[0]
    assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("graph", ["fast", "portable"])
def test_every_product_of_a_layer_runs_in_int8(graphs, portable, tmp_path, graph):
    case, static = graphs["bert"], portable[1] if graph == "portable" else tmp_path / "int8.onnx"
    if graph == "fast":
        quantise_static(case.path, static, calibration=ROWS)
    options = Export(graph=graph, int8_scales="static")
    audit_optimised(static, case.encoder.spec, options, "int8")
    open_session(static, threads=1, optimised=tmp_path / "optimised.onnx")
    assert count_ops(tmp_path / "optimised.onnx")["MatMulIntegerToFloat"] == 6 * len(case.encoder.spec.layers)


def test_a_product_that_moves_the_outputs_too_much_stays_float_and_is_named(portable, tmp_path):
    path, strict = portable[0], tmp_path / "int8.onnx"
    kept = quantise_static(path, strict, StaticInt8(largest_effect=0.0), calibration=ROWS)
    assert kept and all(effect > 0 for effect in kept.values())
    floats = {node.name: node.input[1] for node in onnx.load(str(path)).graph.node if node.name in kept}
    model = onnx.load(str(strict))
    assert set(floats.values()) <= {item.name for item in model.graph.initializer} and len(floats) == len(kept)
    exact, found = (run_session(open_session(file, threads=1), make_batch(8, 20)) for file in (path, strict))
    rough = run_session(open_session(portable[1], threads=1), make_batch(8, 20))
    assert np.abs(found - exact).max() < np.abs(rough - exact).max()


def test_the_family_says_how_it_was_made(portable, tmp_path):
    family = find_family("encoder")
    facts = family.quantise(portable[0], tmp_path / "int8.onnx", ROWS, QuantiseOptions(False, 1, "static"))
    assert (facts["format"], facts["reduce_range"], facts["float"], facts["calibration_rows"]) == ("QDQ", False, {}, 8)
    with pytest.raises(DataError, match="no rows"):
        family.quantise(portable[0], tmp_path / "int8.onnx", [], QuantiseOptions(False, 1, "static"))


def test_zero_is_exact_and_the_largest_weight_is_kept():
    for low, high in ((-3.0, 1.0), (0.0, 7.0), (-2.0, 0.0), (0.0, 0.0)):
        made = input_scale(low, high)
        assert 0 <= made["zero_point"] <= 255
        assert made["scale"] * (255 - int(made["zero_point"])) >= high - made["scale"]
    matrix = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    made = int8_weight(matrix, 64)
    assert np.abs(made["quantized"]).max() == 64
    assert (np.abs(made["quantized"] * made["scale"] - matrix) <= made["scale"] * 0.51).all()
