"""MobileNets as ONNX: the same logits as torch, a value at every tap, the operators, scales of int8 weights."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
import torch
from families.mobilenet.sample import small_mobilenet

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.families.base import QuantiseOptions
from rmtkd_edge.families.mobilenet import FAMILY
from rmtkd_edge.families.mobilenet.graph import FusedNet
from rmtkd_edge.families.mobilenet.module import MobileNet


def random_mobilenet(seed: int) -> MobileNet:
    """Return a small MobileNet of a random version, stem and widths."""
    rng = random.Random(seed)
    version, stem = rng.choice(["v2", "v3-small", "v3-large"]), rng.choice(["cifar", "imagenet"])
    sites = small_mobilenet(version).spec.sites()
    return small_mobilenet(version, {s.name: rng.randint(2, s.width) for s in sites if rng.random() < 0.5}, stem=stem)


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes_come_out_right(seed: int, tmp_path: Path) -> None:
    net, path, int8 = random_mobilenet(seed), tmp_path / "model.onnx", tmp_path / "int8.onnx"
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        wanted = net(x)
        torch.testing.assert_close(FusedNet(net)(x), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    FAMILY.export(net, path, Export(), {})
    audit_emitted(path, net.spec, Export())
    audit_optimised(path, net.spec, Export(), "fp32")
    FAMILY.quantise(path, int8, [{"pixel_values": x}], QuantiseOptions(True, 1))
    audit_optimised(int8, net.spec, Export(), "int8")
    values = FAMILY.graph_values(onnx.load(str(path)), net.spec)
    taps: dict[str, torch.Tensor] = {}
    net(x, tap=taps.__setitem__)
    assert taps.keys() | {"logits"} == values.keys()
    assert {FAMILY.site_of(tap) for tap in taps} == {site.name for site in net.spec.sites()} | {"features"}


@pytest.mark.parametrize("version", ["v2", "v3-small"])
def test_weights_of_depthwise_convolutions_have_a_scale_for_every_channel(version: str, tmp_path: Path) -> None:
    net = small_mobilenet(version)
    path, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    FAMILY.export(net, path, Export(), {})
    images = [{"pixel_values": torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(4)]
    facts = FAMILY.quantise(path, int8, images, QuantiseOptions(reduce_range=False, threads=1))
    assert facts["per_channel"] is True
    graph = onnx.load(str(int8)).graph
    sizes = {t.name: list(t.dims) for t in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    for conv in (node for node in graph.node if node.op_type == "Conv"):
        weight, scale = made[conv.input[1]].input[:2]
        assert sizes[scale] == sizes[weight][:1], conv.name
