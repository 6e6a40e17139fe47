"""Verification finds what differs, and where; tests/test_contract.py holds what every family's files must pass."""

from types import SimpleNamespace

import onnx
import pytest
from export.export_sample import sample_of

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import Finding
from rmtkd_edge.export.audit import audit_emitted, check_ops, count_ops
from rmtkd_edge.export.fold_proof import fold_with_proof
from rmtkd_edge.export.verify import verify_onnx
from rmtkd_edge.families.base import family_of
from rmtkd_edge.tasks.base import find_task


@pytest.fixture(scope="module", params=["encoder", "resnet"])
def case(request, tmp_path_factory):
    """A family's folded sample `shipped`, its file `path`, `batches`, `task`."""
    sample = sample_of(request.param)
    model = sample.make_model(0)
    batches, family = sample.make_batches(model, 2), family_of(model)
    folded, _ = fold_with_proof(model, batches)
    shipped = family.standardise(folded)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    family.export(shipped, path, Export(), {"rmtkd_task": "toy"})
    task = find_task(family.default_task)
    return SimpleNamespace(family=family, shipped=shipped, path=path, batches=batches, task=task)


def test_a_lost_fusion_is_a_finding_for_every_family(case, tmp_path):
    graph = onnx.load(str(case.path))
    counts = count_ops(case.path)
    graph.graph.node.append(onnx.helper.make_node("MatMul", ["a", "b"], ["c"]))
    onnx.save(graph, str(tmp_path / "model.onnx"))
    assert count_ops(tmp_path / "model.onnx")["MatMul"] == counts["MatMul"] + 1
    with pytest.raises(Finding, match="MatMul") as caught:
        audit_emitted(tmp_path / "model.onnx", case.shipped.spec, Export())
    assert any(row[3] == "DIFFERS" for row in caught.value.table)


def test_either_of_two_operators_is_counted():
    assert check_ops("a file", {"A": 1, "B": 2}, {"A or B": 3}).found == {"A or B": 3}


@pytest.mark.parametrize(
    ("name", "part", "site"),
    [("encoder", "layers.1.up.bias", "layer.1.ffn"), ("resnet", None, "layer.3.block.0.conv1")],
)
def test_a_file_that_differs_names_the_site(tmp_path, name, part, site):
    sample = sample_of(name)
    model = sample.make_model(0)
    batches, family = sample.make_batches(model, 1), family_of(model)
    shipped, path = family.standardise(family.fold(model)), tmp_path / "model.onnx"
    family.export(shipped, path, Export(), {})
    graph = onnx.load(str(path))
    wanted = part or _bias_before(graph, family.graph_values(graph, shipped.spec)[site])
    for item in graph.graph.initializer:
        if item.name == wanted:
            item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item) + 1, item.name))
    onnx.save(graph, str(path))
    with pytest.raises(Finding, match=site.replace(".", r"\.")) as caught:
        verify_onnx(path, shipped, batches, find_task(family.default_task), threads=1)
    assert next(row for row in caught.value.table if row[3] == "FIRST")[1] == site


def _bias_before(graph, value: str) -> str:
    """Return the bias of the convolution that makes a value."""
    node = next(node for node in graph.graph.node if value in node.output)
    return node.input[2]
