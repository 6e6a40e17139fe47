"""The sizes that a dry run tells are those of the files that export writes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from random_shapes import model_of
from shapes import encoder_spec, resnet_spec, tensors
from torchvision.models import get_model

from rmtkd_edge.api.models import from_module
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.config.settings import Graph
from rmtkd_edge.export.portable import make_portable
from rmtkd_edge.families.base import QuantiseOptions, Spec, family_of
from rmtkd_edge.families.encoder.spec import Disentangled
from rmtkd_edge.families.modernbert.spec import LayerSpec, ModernBertSpec
from rmtkd_edge.families.vit.spec import VitSpec, even_layers

SMALL = {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 200}


def narrow(spec: Spec) -> Spec:
    """A shape whose sites have widths of their own."""
    widths = {
        site.name: max(3, site.width * (2 + i % 3) // 5) for i, site in enumerate(spec.sites()) if not site.latent
    }
    return spec.with_ranks(widths)


def encoder() -> Spec:
    return narrow(encoder_spec(**SMALL, vocab_size=900, max_position_embeddings=64)).with_ranks({"embedding": 20})


def albert() -> Spec:
    return replace(encoder(), model_type="albert", layers=encoder().layers[:1], repeats=3, embedding_size=40)


def deberta() -> Spec:
    shape = Disentangled(32, 32, 64, True, True, True)
    return replace(encoder(), model_type="deberta-v2", type_vocab=0, position_table=False, disentangled=shape)


def modernbert() -> Spec:
    layers = tuple(LayerSpec(4, 24, 24, 150, i > 0, i > 0) for i in range(2))
    return narrow(ModernBertSpec(900, 64, 96, layers, 96, ("negative", "positive")))


def resnet() -> Spec:
    return narrow(resnet_spec(18)).with_ranks({"layer.3.block.0.conv2.factor": 12})


def mobilenet(name: str) -> Spec:
    return narrow(from_module(get_model(name, num_classes=10, width_mult=0.35)).spec)


def vit() -> Spec:
    return narrow(VitSpec(96, even_layers(3, 4, 96, 200), ("a", "b"), patch=4, image_size=32))


@pytest.mark.parametrize("graph", ["fast", "portable"])
@pytest.mark.parametrize(
    "make",
    [
        encoder,
        albert,
        deberta,
        modernbert,
        resnet,
        vit,
        partial(mobilenet, "mobilenet_v2"),
        partial(mobilenet, "mobilenet_v3_small"),
    ],
)
def test_a_files_size_is_predicted_within_five_per_cent(make: object, graph: Graph, tmp_path: Path) -> None:
    assert callable(make)
    spec: Spec = make()
    family, path, int8 = family_of(spec), tmp_path / "model.onnx", tmp_path / "int8.onnx"
    family.export(family.standardise(model_of(spec, 0)), path, Export(graph=graph), {})
    batch = tensors(spec.example_inputs(2, 8 if spec.max_length else None, 0))
    family.quantise(path, int8, [batch], QuantiseOptions(True, 1))
    for precision, file in (("fp32", path), ("int8", int8)):
        if graph == "portable":
            make_portable(file)
        told = family.file_bytes(spec, precision, graph)  # type: ignore[arg-type]
        assert told == pytest.approx(file.stat().st_size, rel=0.05), precision
