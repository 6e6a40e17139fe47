"""Exports that many tests read, made once: torch's exporter takes seconds a model."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from export.export_sample import KINDS, UNEVEN, make_batch, make_encoder, make_run, make_spec, make_task

from rmtkd_edge.export import stage
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.families.encoder.quantise import quantise_onnx
from rmtkd_edge.export.stage import export_run
from rmtkd_edge.families.encoder.to_onnx import export_onnx
from rmtkd_edge.families.encoder.spec import with_ranks


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """By model type: a folded encoder of uneven widths (`encoder`), its file (`path`) and the int8 one (`int8`)."""
    folder, found = tmp_path_factory.mktemp("onnx"), {}
    for kind in KINDS:
        encoder = make_encoder(with_ranks(make_spec(kind), UNEVEN))
        path, int8 = folder / f"{kind}.onnx", folder / f"{kind}-int8.onnx"
        export_onnx(encoder, path, metadata={"rmtkd_task": "toy"})
        quantise_onnx(path, int8, calibration=[make_batch(8, 20, seed=5)])
        found[kind] = SimpleNamespace(encoder=encoder, path=path, int8=int8)
    return found


@pytest.fixture(scope="session")
def plain(tmp_path_factory, exports):
    """The BERT of `exports` written with plain operators throughout: `options`, `path`."""
    options = GraphOptions(attention="plain", norm="layer", gelu="plain", first_token=False)
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export_onnx(exports["bert"].encoder, path, options)
    return SimpleNamespace(options=options, path=path)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A run whose export stage is done: `run`, `facts` (rmtkd.json), `task`. Read it, do not change it."""
    run, task = make_run(tmp_path_factory.mktemp("run") / "a"), make_task()
    return SimpleNamespace(run=run, task=task, facts=export_run(run, task=task, threads=1))


@pytest.fixture
def traced(exported, monkeypatch):
    """The export stage copies the graphs of `exported`, whose bytes would be the same, in place of tracing again."""
    folders = {UNEVEN["stream"]: "export", make_spec().width: "baseline"}
    known = {width: exported.run.path / folder / "onnx/model.onnx" for width, folder in folders.items()}

    def copy(encoder, path, options, metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(known[encoder.spec.width], path)
        return [path]

    monkeypatch.setattr(stage, "export_onnx", copy)
