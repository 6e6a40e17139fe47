"""Time by operator: operations against an oracle, shares that add up, a planted slow operator that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from profile_run_sample import exported_run

from rmtkd_edge.cli.app import main
from rmtkd_edge.config.hardware import curve_macs
from rmtkd_edge.profile import layers
from rmtkd_edge.profile.explain import roofline, stage
from rmtkd_edge.profile.explain.operators import operator_records
from rmtkd_edge.profile.explain.trace import Graph, read_trace, with_names
from rmtkd_edge.profile.explain.work import Node, UnknownWorkError, Value, bytes_of, flops_of, kind_of
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import EXPLAIN, PRECISIONS
from rmtkd_edge.run.records.base import from_json, to_json
from rmtkd_edge.run.records.explain import ExplainRecord, OperatorRecord, RateRecord, RooflineRecord
from rmtkd_edge.sessions import open_session

RATES = RooflineRecord(
    {"fp32": (RateRecord(64, 1e9),), "int8": (RateRecord(64, 4e9),)}, (RateRecord(1024, 1e9), RateRecord(4096, 1e8))
)
SIZES = st.integers(1, 9)


def node(
    operator: str, *read: tuple[int, ...] | None, written: tuple[int, ...], kind: str = "float", **attributes: Any
):
    inputs = [None if shape is None else Value(shape, kind) for shape in read]
    return Node(operator, attributes, inputs, [Value(written, kind)])


def counted(function: Any, *shapes: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the operations of a product, and its shape: of ones, the sum is the number of multiply-accumulates."""
    found = function(*(torch.ones(shape, dtype=torch.float64) for shape in shapes))
    return 2 * int(found.sum()), tuple(found.shape)


@given(SIZES, SIZES, SIZES, SIZES)
def test_matrix_products_have_the_operations_that_add_up(b: int, m: int, k: int, n: int) -> None:
    expected, shape = counted(torch.matmul, (b, m, k), (b, k, n))
    assert flops_of(node("MatMul", (b, m, k), (b, k, n), written=shape)) == expected
    assert flops_of(node("FusedMatMul", (b, k, m), (b, k, n), written=shape, transA=1)) == expected
    assert flops_of(node("DynamicQuantizeMatMul", (b, m, k), (k, n), written=shape)) == expected
    assert flops_of(node("Gemm", (m, k), (k, n), written=(m, n))) * b == expected
    assert flops_of(node("Gemm", (k, m), (n, k), written=(m, n), transA=1, transB=1)) * b == expected


@given(SIZES, SIZES, SIZES, st.integers(1, 3), st.integers(5, 9), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]))
def test_convolutions_too(b: int, i: int, o: int, groups: int, side: int, kernel: int, stride: int) -> None:
    read, weights = (b, i * groups, side, side), (o * groups, i, kernel, kernel)
    expected, shape = counted(lambda x, w: torch.conv2d(x, w, stride=stride, groups=groups), read, weights)
    assert flops_of(node("Conv", read, weights, written=shape, group=groups)) == expected
    scalar = (1,)
    assert flops_of(node("QLinearConv", read, scalar, scalar, weights, written=shape, group=groups)) == expected


@given(SIZES, SIZES, SIZES, SIZES, SIZES)
def test_attention_is_its_two_products(b: int, q: int, t: int, d: int, p: int) -> None:
    scores, _ = counted(torch.matmul, (b, q, d), (b, d, t))
    mixed, shape = counted(torch.matmul, (b, q, t), (b, t, p))
    assert flops_of(node("MultiHeadAttention", (b, q, d), (b, t, d), (b, t, p), written=shape)) == scores + mixed


def test_what_is_not_known_is_refused_and_not_guessed() -> None:
    for unknown in (
        node("Einsum", (2, 2), (2, 2), written=(2, 2)),
        node("MultiHeadAttention", (1, 2, 3, 4, 5), None, None, written=(1, 2, 60)),
        node("FusedMatMul", (2, 3, 4), (3, 4, 5), written=(2, 3, 5), transBatchA=1),
        node("Conv", (1, 2, 3, 3), written=(1, 2, 3, 3)),
    ):
        with pytest.raises(UnknownWorkError):
            flops_of(unknown)
    with pytest.raises(UnknownWorkError, match="string"):
        bytes_of(node("Identity2", (3,), written=(3,), kind="string"))


def test_bytes_are_those_of_the_tensors_and_of_a_table_only_the_rows_that_are_read() -> None:
    assert bytes_of(node("Add", (2, 3), (3,), written=(2, 3))) == 4 * (6 + 3 + 6)
    assert bytes_of(node("Reshape", (2, 3), (1,), written=(6,))) == 0
    table = Node("Gather", {}, [Value((1000, 8), "float"), Value((5,), "int64")], [Value((5, 8), "float")])
    assert bytes_of(table) == 2 * 5 * 8 * 4 + 5 * 8
    assert kind_of(node("MatMulInteger", (2, 2), (2, 2), written=(2, 2), kind="uint8")) == "int8"


@given(
    st.dictionaries(st.integers(1, 10**6), st.floats(1, 1e12), min_size=1), st.integers(0, 10**7), st.integers(0, 10**7)
)
def test_more_bytes_are_never_copied_faster(copy: dict[int, float], a: int, b: int) -> None:
    rates = RooflineRecord({}, tuple(map(RateRecord, copy.keys(), copy.values())))
    assert rates.bytes_per_s(min(a, b)) >= rates.bytes_per_s(max(a, b))


def operators_of(path: Path, feeds: dict[str, np.ndarray], folder: Path) -> tuple[OperatorRecord, ...]:
    """Return the operators of a few traced calls."""
    optimised = folder / "optimised.onnx"
    session = open_session(with_names(path, folder / "named.onnx"), threads=1, optimised=optimised, trace=folder / "t")
    for _ in range(4):
        session.run(None, feeds)
    trace = read_trace(Path(session.end_profiling()))
    assert len(trace.calls) == 4
    return operator_records([trace.calls[1:]], Graph(optimised, feeds, trace), RATES)


@pytest.mark.parametrize("kind", ["gemm", "conv"])
def test_a_graph_as_it_runs_has_the_operations_of_its_layers(kind: str, tmp_path: Path) -> None:
    path, name = layers.write(kind, 48, tmp_path / "m.onnx"), {"gemm": "rows", "conv": "images"}[kind]
    found = operators_of(path, {name: layers.inputs()[name]}, tmp_path)  # its nodes have no names, and fused ones do
    assert sum(operator.flops or 0 for operator in found) == 2 * curve_macs(kind, 48)
    assert sum(operator.share for operator in found) == pytest.approx(1)
    for operator in found:
        assert operator.time_ms >= 0 and operator.bytes_moved is not None and operator.roofline_ms is not None
        assert operator.gain_ms == pytest.approx(max(0.0, operator.time_ms - operator.roofline_ms))
        if operator.flops:
            assert operator.arithmetic == "fp32" and operator.roofline_ms >= 1e3 * operator.flops / 1e9 * 0.999


def test_integer_products_are_held_against_the_integer_rate(tmp_path: Path) -> None:
    onnx.save(roofline.product("int8", 64), str(tmp_path / "m.onnx"))
    (found,) = operators_of(tmp_path / "m.onnx", {"a": np.ones((64, 64), np.uint8)}, tmp_path)
    assert (found.operator, found.arithmetic, found.flops) == ("MatMulInteger", "int8", 2 * 64**3)
    moving = 1e3 * found.bytes_moved / RATES.bytes_per_s(found.bytes_moved)
    assert found.roofline_ms == pytest.approx(max(1e3 * found.flops / 4e9, moving))


def test_a_planted_slow_operator_is_named_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Acosh", ["a"], ["b"]),  # no vector instructions compute it
        helper.make_node("ReduceMax", ["b"], ["out"]),
    ]
    read = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024, 1024])
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "planted", [read], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    slowest, *others = operators_of(tmp_path / "m.onnx", {"x": np.full((1024, 1024), 2, np.float32)}, tmp_path)
    assert slowest.operator == "Acosh" and slowest.share > 0.5
    assert slowest.flops is None and slowest.flops_why and slowest.bytes_moved == 2 * 4 * 2**20
    assert [o.time_ms for o in others] == sorted((o.time_ms for o in others), reverse=True)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(stage, "ROUNDS", 2)
    monkeypatch.setattr(stage, "LEAST_S", 0.0)
    monkeypatch.setattr(roofline, "ROWS", (16,))
    monkeypatch.setattr(roofline, "COPIES", (2**16, 2**18))


def called(capsys, *argv: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as code:
        main([str(part) for part in argv])
    return (code.value.code, *capsys.readouterr())


def test_an_exported_run_is_explained_and_not_exported_again(quick, tmp_path: Path, capsys) -> None:
    run = exported_run(tmp_path / "run")
    before = dict(run.manifest["files"])
    code, out, _ = called(capsys, "export", run.path, "--explain", "--json")
    record = Run.open(run.path).read_record(ExplainRecord, EXPLAIN)
    assert code == 0 and from_json(ExplainRecord, json.loads(out), "stdout") == record == from_json(
        ExplainRecord, to_json(record), "again"
    )
    after = dict(Run.open(run.path).manifest["files"])
    assert after.pop(EXPLAIN) and after == before
    assert [file.label for file in record.files] == ["rmt-kd fp32", "rmt-kd int8", "original fp32", "original int8"]
    for file in record.files:
        assert file.operators_ms == pytest.approx(sum(operator.time_ms for operator in file.operators))
        assert file.overhead_ci95 is None  # of two rounds
        (product,) = [operator for operator in file.operators if operator.operator == "MatMul"]
        width = 8 if file.role == "candidate" else 64
        assert product.nodes == 2 and product.flops == 2 * 16 * width * width + 2 * width * 2
    code, out, _ = called(capsys, "export", run.path, "--explain")
    assert code == 0 and "MatMul" in out and "rmt-kd int8" in out and "next: rmtkd-edge profile" in out


def test_the_report_shows_it_until_the_files_are_replaced(quick, tmp_path: Path, capsys) -> None:
    run, page = exported_run(tmp_path / "run"), tmp_path / "run" / "report" / "report.md"
    assert called(capsys, "report", run.path)[0] == 0 and "Time by operator" not in page.read_text("utf-8")
    assert called(capsys, "export", run.path, "--explain")[0] == 0
    assert called(capsys, "report", run.path)[0] == 0
    text = page.read_text("utf-8").partition("## Time by operator")[2].partition("\n## ")[0]
    assert "| MatMul | 2 |" in text and "Operators of original int8" in text and "not measured" not in text
    record = Run.open(run.path).read_record(ExplainRecord, EXPLAIN)
    replaced = to_json(record)
    replaced["files"][0]["sha256"] = "0" * 64
    Run.open(run.path).write_record(EXPLAIN, from_json(ExplainRecord, replaced, "edited"))
    assert called(capsys, "report", run.path)[0] == 0
    assert f"export {run.path} --explain" in page.read_text("utf-8")


def test_what_cannot_be_explained_is_refused_with_the_next_command(quick, tmp_path: Path, capsys) -> None:
    run = exported_run(tmp_path / "run")
    code, _, err = called(capsys, "export", run.path, "--explain", "--fp16")  # asks for another export
    assert code == 2 and "compress" in err and not Run.open(run.path).has(EXPLAIN)
    run.path_of(f"export/{PRECISIONS['fp32'].file}").write_bytes(b"damaged")
    code, _, err = called(capsys, "export", run.path, "--explain")
    assert code == 2 and f"rmtkd-edge export {run.path}" in err
