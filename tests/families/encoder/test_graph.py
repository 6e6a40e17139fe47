"""Exported graphs against torch: every model type, every mask, every shape; inputs, metadata, audit."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from families.encoder.sample import BIASED, KINDS, UNEVEN, make_batch, make_encoder, make_spec, project
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import Finding, RunDirError, UserError
from rmtkd_edge.export.audit import audit_emitted, audit_optimised, check_ops, count_ops
from rmtkd_edge.export.fold_proof import fold_with_proof
from rmtkd_edge.export.verify import compare_onnx, verify_onnx
from rmtkd_edge.families import onnx_program
from rmtkd_edge.families.base import list_sites
from rmtkd_edge.families.encoder.audit import expect_emitted
from rmtkd_edge.families.encoder.graph import export
from rmtkd_edge.families.onnx_operators import GraphOptions
from rmtkd_edge.sessions import open_session, run_session
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.reading.sequences import variations

TASK = find_task("text-classification")


@pytest.mark.parametrize("kind", KINDS)
def test_same_logits_in_every_shape(graphs, kind):
    case = graphs[kind]
    batches = variations([make_batch(), make_batch(1, 3), make_batch(7, 20, seed=2)], 0, 30)
    padded_left = {name: tensor.flip(1) for name, tensor in make_batch(8, 13, seed=3).items()}
    proof = verify_onnx(case.path, case.encoder, [*batches, padded_left], TASK, threads=1)
    assert proof.relative < 1e-5 and proof.agreement == 1.0
    assert len(proof.shapes) >= 5 and (2, 30) in proof.shapes


def test_some_row_is_padded_even_where_all_rows_are_as_long_as_can_be():
    batch = make_batch(1, 12)
    padded = [item for item in variations([batch], 0, 12) if not item["attention_mask"].all()]
    assert batch["attention_mask"].all() and padded and all(item["attention_mask"].any(1).all() for item in padded)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(graphs, kind):
    session = open_session(graphs[kind].path, threads=1)
    row = {name: tensor[:1, :6] for name, tensor in make_batch(2, 8).items()}
    wide = {name: np.pad(tensor.numpy(), ((0, 0), (0, 20))) for name, tensor in row.items()}
    np.testing.assert_allclose(run_session(session, wide), run_session(session, row), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BIASED])
def test_no_fused_attention_has_one_query_a_row(graphs, kind):
    model = onnx.load(str(graphs[kind].path))  # CPU kernels of onnxruntime 1.18 to 1.20.1 are wrong there under a mask
    queries = [node.input[0] for node in model.graph.node if node.op_type == "MultiHeadAttention"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(q, onnx.TensorProto.FLOAT, None) for q in queries)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = make_batch(4, 11)
    found = session.run(queries, {item.name: batch[item.name].numpy() for item in session.get_inputs()})
    assert queries and all(query.shape[:2] == (4, 11) for query in found)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_those_that_the_model_reads(graphs, kind):
    model = onnx.load(str(graphs[kind].path))
    wanted = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind in ("bert", "electra", "albert") else [])
    assert [item.name for item in model.graph.input] == wanted
    for item in model.graph.input:
        assert item.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert [axis.dim_param for axis in item.type.tensor_type.shape.dim] == ["batch", "sequence"]
    (logits,) = model.graph.output
    assert logits.name == "logits" and logits.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {item.key: item.value for item in model.metadata_props}["rmtkd_task"] == "toy"
    assert not any(item.external_data for item in model.graph.initializer)


@pytest.mark.parametrize("kind", KINDS)
def test_audit_holds_for_what_is_emitted(graphs, kind):
    case, options = graphs[kind], Export()
    assert audit_emitted(case.path, case.encoder.spec, options).found["MultiHeadAttention"] == (kind not in BIASED)
    audit_optimised(case.path, case.encoder.spec, options, "fp32")
    audit_optimised(case.int8, case.encoder.spec, options, "int8")


def test_audit_fails_loudly_when_a_fusion_is_missing(graphs, plain):
    spec = graphs["bert"].encoder.spec
    check_ops("plain", count_ops(plain.path), expect_emitted(spec, plain.options))
    for audit in (
        lambda: audit_emitted(plain.path, spec, Export()),
        lambda: audit_optimised(plain.path, spec, Export(), "fp32"),
        lambda: audit_optimised(graphs["bert"].path, spec, Export(), "int8"),
    ):
        with pytest.raises(Finding) as caught:
            audit()
        assert any(row[3] == "DIFFERS" for row in caught.value.table)
    assert "MultiHeadAttention" in _message(lambda: audit_emitted(plain.path, spec, Export()))


def _message(call):
    with pytest.raises(Finding) as caught:
        call()
    return caught.value.message


def test_plain_operators_compute_the_same(graphs, plain):
    session = open_session(plain.path, threads=1)
    assert compare_onnx(session, graphs["bert"].encoder, [make_batch()], TASK).relative < 1e-5


@pytest.mark.parametrize(("activation", "opset"), [("gelu", 18), ("gelu", 23), ("gelu_new", 18)])
def test_onnxruntime_fuses_the_portable_graph(tmp_path, activation, opset):
    encoder = make_encoder(replace(make_spec("electra"), activation=activation).with_ranks(UNEVEN))
    path, options = tmp_path / "model.onnx", Export(graph="portable", opset=opset)
    export(encoder, path, GraphOptions.of(options))
    audit_emitted(path, encoder.spec, options)
    audit_optimised(path, encoder.spec, options, "fp32")
    assert count_ops(path)["Where"] == 1  # the mask's bias, once for all layers
    assert verify_onnx(path, encoder, [make_batch(), make_batch(1, 3)], TASK, threads=1).relative < 1e-5


def test_a_file_that_differs_names_the_site(graphs, tmp_path):
    case = graphs["bert"]
    model = onnx.load(str(case.path))
    for item in model.graph.initializer:
        if item.name == "layers.1.up.bias":
            item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item) + 1, item.name))
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    with pytest.raises(Finding, match=r"layer\.1\.ffn") as caught:
        verify_onnx(tmp_path / "wrong.onnx", case.encoder, [make_batch()], TASK, threads=1)
    places = [row[0] for row in caught.value.table[1:]]
    assert {"stream.0", "layer.0.q", "layer.0.k", "layer.0.value", "layer.0.mid", "layer.0.ffn", "stream.1"} <= set(
        places
    )


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_projected_folded_and_onnx_agree_for_any_widths(tmp_path_factory, data):
    kind, heads = data.draw(st.sampled_from(KINDS)), data.draw(st.integers(1, 4))
    wide = make_spec(kind, layers=1, heads=heads)
    ranks = {site.name: data.draw(st.integers(1, site.width), site.name) for site in list_sites(wide)}
    ranks["stream"] = max(2, ranks["stream"])  # a norm over one channel is constant
    batch = make_batch(seed=data.draw(st.integers(0, 99)))
    encoder = project(make_encoder(wide.with_ranks(ranks), 3), wide)
    folded, proof = fold_with_proof(encoder, [batch])
    path = tmp_path_factory.mktemp("any") / "model.onnx"
    export(folded, path)
    assert proof.holds
    verify_onnx(path, folded, [batch], TASK, threads=1)


def test_weights_beyond_the_limit_go_next_to_the_model(graphs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_program, "LIMIT_BYTES", 1000)
    encoder = graphs["bert"].encoder
    files = export(encoder, tmp_path / "model.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert len(files) == 2
    assert compare_onnx(open_session(files[0], threads=1), encoder, [make_batch()], TASK).relative < 1e-5


def test_what_cannot_be_exported_is_refused(tmp_path):
    encoder = make_encoder(make_spec(layers=1))
    with pytest.raises(UserError, match="opset 7"):
        export(encoder, tmp_path / "model.onnx", GraphOptions(opset=7))
    narrow = make_encoder(make_spec(layers=1).with_ranks({"stream": 5}))
    with pytest.raises(UserError, match="projections"):
        export(project(narrow, make_spec(layers=1)), tmp_path / "model.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError):
        export(encoder, tmp_path / "file" / "model.onnx")
