"""Op counts: they hold for every shape, and a fusion that is missing shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
from families.resnet.sample import random_resnet, small_resnet

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.families.base import QuantiseOptions
from rmtkd_edge.families.resnet import FAMILY
from rmtkd_edge.families.resnet.audit import Stage
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.sessions import open_session


def differing(net: ResNet, path: Path, stage: Stage) -> set[str]:
    """Return the operators whose number in a file, or in the graph that onnxruntime makes of it, is not expected."""
    if stage != "emitted":
        open_session(path, threads=1, optimised=path.with_name("optimised.onnx"))
        path = path.with_name("optimised.onnx")
    counts: Mapping[str, int] = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    expected = FAMILY.expected_ops(net.spec, Export(), stage)
    return {names for names, n in expected.items() if n != sum(counts.get(name, 0) for name in names.split(" or "))}


def int8_of(path: Path) -> Path:
    target = path.with_name("int8.onnx")
    images = [{"pixel_values": torch.randn(4, 3, 16, 16)}]
    FAMILY.quantise(path, target, images, QuantiseOptions(reduce_range=True, threads=1))
    return target


@pytest.mark.parametrize("seed", range(10))
def test_counts_hold_for_random_shapes(seed: int, tmp_path: Path) -> None:
    net, path = random_resnet(seed), tmp_path / "model.onnx"
    FAMILY.export(net, path, Export(), {})
    assert not differing(net, path, "emitted")
    assert not differing(net, path, "fp32")
    assert not differing(net, int8_of(path), "int8")


def test_a_norm_that_was_not_folded_shows(tmp_path: Path) -> None:
    net, path = small_resnet(18), tmp_path / "model.onnx"
    FAMILY.export(net, path, Export(), {})
    model = onnx.load(str(path))
    names = ["norm.scale", "norm.shift", "norm.mean", "norm.variance"]
    at, relu = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
    for name in names:
        values = torch.ones(net.spec.stem_width).numpy()
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    given = [relu.input[0], *names]
    relu.input[0] = "normalised"
    model.graph.node.insert(at, onnx.helper.make_node("BatchNormalization", given, ["normalised"]))
    onnx.save(model, str(path))
    assert differing(net, path, "emitted") == {"BatchNormalization"}
    assert not differing(net, path, "fp32"), "onnxruntime folds it"


def test_a_factor_that_was_not_exported_as_two_shows(tmp_path: Path) -> None:
    thin, path = small_resnet(18, ranks={"layer.3.block.0.conv1.factor": 6}), tmp_path / "model.onnx"
    FAMILY.export(small_resnet(18), path, Export(), {})
    assert differing(thin, path, "emitted") == {"Conv"}
    assert differing(thin, path, "fp32") == {"Conv or FusedConv"}


def test_what_keeps_a_norm_s_scale_from_the_convolution_shows_in_fp32(tmp_path: Path) -> None:
    net, path = small_resnet(18), tmp_path / "model.onnx"
    FAMILY.export(net, path, Export(), {})
    model = onnx.load(str(path))
    for i, node in enumerate(model.graph.node):
        if node.op_type == "Relu":  # a product of two activations, that no convolution can take in
            square = onnx.helper.make_node("Mul", [node.input[0], node.input[0]], ["squared"])
            node.input[0] = "squared"
            model.graph.node.insert(i, square)
            break
    onnx.save(model, str(path))
    assert differing(net, path, "fp32") == {"Mul"}


def test_a_convolution_that_stayed_float_shows(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from rmtkd_edge.families.static_int8 import Batches

    net, path = small_resnet(18), tmp_path / "model.onnx"
    FAMILY.export(net, path, Export(), {})
    left_out = [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"][3:5]
    quantize_static(
        str(path),
        str(tmp_path / "int8.onnx"),
        Batches([{"pixel_values": torch.randn(4, 3, 16, 16)}], ["pixel_values"]),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=FAMILY.quantised,
        nodes_to_exclude=left_out,  # of one alone, between int8 neighbours, onnxruntime quantises the weights itself
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    assert {"QLinearConv", "Conv or FusedConv or ConvInteger"} <= differing(net, tmp_path / "int8.onnx", "int8")
