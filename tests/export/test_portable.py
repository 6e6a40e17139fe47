"""The two graphs by name: who chooses, what is recorded, and that both compute what torch does."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from export.export_sample import make_text_run
from onnx import TensorProto, helper

from rmtkd_edge.config.hardware import graph_for, load_profile, parse_profile
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import Finding, RecipeError
from rmtkd_edge.export.load import load
from rmtkd_edge.export.portable import make_portable
from rmtkd_edge.export.stage import export_run
from rmtkd_edge.families.onnx_program import oldest_runtime
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import RECIPE, read_recipe

PAIRS = [("w1 w2", "w3"), ("w4", "w5 w6 w7 w8 w9")]


def domains(path):
    return {node.domain for node in onnx.load(str(path)).graph.node}


@pytest.fixture(scope="module")
def portable_run(tmp_path_factory):
    """A run whose profile's provider has no kernels of onnxruntime's own operators."""
    folder = tmp_path_factory.mktemp("portable")
    text = load_profile("generic-x86-avx2").model_dump(exclude_none=True, mode="json")
    text |= {"provider": "OpenVINOExecutionProvider", "name": "openvino"}
    text.pop("calibration", None)
    import tomli_w

    (folder / "openvino.toml").write_text(tomli_w.dumps(text))
    stop, export = {"profile": str(folder / "openvino.toml")}, {"fp16": True, "int8_scales": "static"}
    options = make_text_run(folder / "a", stop=stop, export=export)
    return options, export_run(options)


def test_the_profile_chooses_and_both_graphs_answer_alike(portable_run, text_run):
    options, record = portable_run
    assert record.graph == {"name": "portable", "opset": 18} and record.onnxruntime == "1.16"
    assert text_run.record.graph == {"name": "fast", "opset": 18} and text_run.record.onnxruntime == "1.18"
    assert record.variants.keys() == {"fp32", "fp16", "int8"}
    how = record.variants["int8"].quantisation
    assert how["format"] == "QDQ" and isinstance(how["float"], dict)
    for variant in record.variants.values():
        model = onnx.load(str(options.run / "export" / variant.file))
        assert {item.domain for item in model.opset_import} == {""} and model.ir_version == 8
        assert {item.key: item.value for item in model.metadata_props}["rmtkd_onnxruntime"] == "1.16"
    assert "com.microsoft" in domains(text_run.run.path / "export/onnx/model.onnx")
    fast, portable = (load(run).predict(PAIRS) for run in (text_run.run.path, options.run))
    np.testing.assert_allclose(portable.outputs, fast.outputs, atol=1e-5 * np.abs(fast.outputs).max())


def test_an_option_comes_before_the_recipe_and_the_recipe_before_the_profile(portable_run, traced, tmp_path):
    options, _ = portable_run
    assert export_run(replace(options, graph="fast", int8=False, force=True)).graph["name"] == "fast"
    profile = load_profile("local-cpu")
    assert [graph_for(wanted, profile) for wanted in (None, "fast", "portable")] == ["fast", "fast", "portable"]
    assert graph_for(None, None) == "fast"
    assert graph_for(None, profile.model_copy(update={"graph": "portable"})) == "portable"
    other = profile.model_copy(update={"provider": "TensorrtExecutionProvider"})
    assert graph_for(None, other) == "portable" and graph_for("fast", other) == "fast"
    with pytest.raises(RecipeError, match="graph"):
        parse_profile({**load_profile("raspberry-pi-5").model_dump(mode="json"), "graph": "quick"}, "here")


def test_a_run_of_version_0_2_keeps_its_graph(tmp_path):
    run = Run.open(make_text_run(tmp_path / "a").run)
    text = run.read_text(RECIPE)
    for attention, graph in (("plain", "portable"), ("fused", "fast")):
        old = text.replace("[export]", f'[export]\nattention = "{attention}"\nnorm = "instance"')
        run.write_text(RECIPE, old)
        assert read_recipe(run).export.graph == graph


def test_what_is_no_standard_onnx_is_a_finding(text_run, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((text_run.run.path / "export/onnx/model.onnx").read_bytes())
    with pytest.raises(Finding, match=r"com\.microsoft::Gelu, com\.microsoft::MultiHeadAttention"):
        make_portable(path)
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    wrong = helper.make_graph([helper.make_node("Relu", ["missing"], ["y"])], "g", places[:1], places[1:])
    onnx.save(helper.make_model(wrong, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    with pytest.raises(Finding, match="missing"):
        make_portable(path)


def test_opsets_of_a_portable_graph():
    opsets = (18, 20, 21, 22, 23)
    assert [oldest_runtime(opset, "portable") for opset in opsets] == ["1.16", "1.17", "1.18", "1.21", "1.23"]
    assert Export().graph is None
