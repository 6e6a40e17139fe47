"""Graphs that many tests read, made once: torch's exporter takes seconds a model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from families.encoder.sample import KINDS, UNEVEN, make_batch, make_encoder, make_spec

from rmtkd_edge.families.dynamic_int8 import quantise_onnx
from rmtkd_edge.families.encoder.graph import GraphOptions, export


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """By model type: a folded encoder of uneven widths (`encoder`), its file (`path`) and the int8 one (`int8`)."""
    folder, found = tmp_path_factory.mktemp("onnx"), {}
    for kind in KINDS:
        encoder = make_encoder(make_spec(kind).with_ranks(UNEVEN))
        path, int8 = folder / f"{kind}.onnx", folder / f"{kind}-int8.onnx"
        export(encoder, path, metadata={"rmtkd_task": "toy"})
        quantise_onnx(path, int8, calibration=[make_batch(8, 20, seed=5)])
        found[kind] = SimpleNamespace(encoder=encoder, path=path, int8=int8)
    return found


@pytest.fixture(scope="session")
def plain(tmp_path_factory, graphs):
    """The BERT of `graphs` written with plain operators throughout: `options`, `path`."""
    options = GraphOptions(attention="plain", norm="layer", gelu="plain", first_token=False)
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export(graphs["bert"].encoder, path, options)
    return SimpleNamespace(options=options, path=path)
