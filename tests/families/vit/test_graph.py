"""The graph of a vision transformer: the same logits, the operators of its shape, its size and its other loaders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from families.vit.sample import LABELS, SIDE, close, images, logits, of_transformers, ours
from transformers import AutoModelForImageClassification

import rmtkd_edge as rk
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import UserError
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.families.base import QuantiseOptions
from rmtkd_edge.families.onnx_operators import GraphOptions
from rmtkd_edge.families.vit import FAMILY
from rmtkd_edge.families.vit.config import fits_transformers
from rmtkd_edge.families.vit.graph import build, export
from rmtkd_edge.sessions import open_session

CUT = {"stream": 15, "layer.0.qk": 5, "layer.1.value": 3, "layer.0.ffn": 11}
KINDS = [{}, {"pool": "mean", "tokens": 0}, {"model_type": "deit", "tokens": 2}, {"activation": "gelu_pytorch_tanh"}]


def narrow(**settings: Any) -> Any:
    """A model whose sites have widths of their own."""
    model = FAMILY.initialise(FAMILY.build(ours(**settings).spec.with_ranks(CUT)), 0)
    return FAMILY.standardise(model.eval())


@pytest.mark.parametrize("graph", ["fast", "portable"])
@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_every_kind_runs_in_onnxruntime(settings: dict[str, Any], graph: Any, tmp_path: Path) -> None:
    model, path, int8, options = narrow(**settings), tmp_path / "m.onnx", tmp_path / "q.onnx", Export(graph=graph)
    FAMILY.export(model, path, options, {})
    audit_emitted(path, model.spec, options)
    audit_optimised(path, model.spec, options, "fp32")
    FAMILY.quantise(path, int8, [{"pixel_values": images()}], QuantiseOptions(True, 1))
    audit_optimised(int8, model.spec, options, "int8")
    for batch in (1, 8):
        wanted = logits(model, images(batch))
        for file, most in ((path, 1e-4), (int8, 0.1)):
            found = open_session(file, threads=1).run(None, {"pixel_values": images(batch).numpy()})[0]
            assert np.abs(found - wanted.numpy()).max() <= most * wanted.abs().max()


def test_the_last_layer_computes_the_class_token_alone(tmp_path: Path) -> None:
    model, fused, outputs = narrow(), {}, {}
    for shorter in (True, False):
        path = tmp_path / f"{shorter}.onnx"
        export(model, path, GraphOptions(first_token=shorter))
        fused[shorter] = [node.op_type for node in onnx.load(path).graph.node].count("MultiHeadAttention")
        outputs[shorter] = open_session(path, threads=1).run(None, {"pixel_values": images().numpy()})[0]
    assert fused == {True: 1, False: 2}
    np.testing.assert_allclose(outputs[True], outputs[False], rtol=1e-3, atol=1e-4)


def test_a_model_with_projections_is_not_traced() -> None:
    p = torch.linalg.qr(torch.randn(24, 15))[0].T
    with pytest.raises(UserError, match="projections"):
        build(FAMILY.unfold(narrow(), {"stream": p}), GraphOptions())


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_transformers_loads_what_its_config_can_describe(kind: str, tmp_path: Path) -> None:
    model = rk.from_transformers(of_transformers(kind), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert fits_transformers(model.spec)
    folder = tmp_path / "out"
    rk.export(model, folder, precision=("fp32",))
    again = AutoModelForImageClassification.from_pretrained(folder)
    assert type(again).__name__.startswith({"vit": "ViT", "deit": "DeiT"}[kind])
    assert again.config.id2label == dict(enumerate(LABELS)) and close(logits(again, images()), logits(model, images()))
    pictures = [np.full((SIDE, SIDE, 3), shade, np.uint8) for shade in (0, 90, 255)]
    answers = rk.load(folder).predict(pictures).outputs, rk.load(folder, backend="torch").predict(pictures).outputs
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-4)


def test_what_it_cannot_describe_says_so() -> None:
    spec = ours().spec
    standard = replace(spec, layers=tuple(replace(layer, scale=layer.qk**-0.5) for layer in spec.layers))
    assert fits_transformers(standard)
    for other in (standard.with_ranks({"stream": 15}), replace(standard, pool="mean"), replace(standard, tokens=2)):
        assert not fits_transformers(other) and FAMILY.config(other, "x")["rmtkd"]["transformers"] is False
    assert not fits_transformers(standard.with_ranks({"layer.1.ffn": 9}))
