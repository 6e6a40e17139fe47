"""Exports that many tests read, made once: torch's exporter takes seconds a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from export.export_sample import make_image_run, make_text_run

from rmtkd_edge.export.stage import export_run
from rmtkd_edge.families.base import find_family
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import ROLES


def _exported(options: Any) -> SimpleNamespace:
    record = export_run(options)
    return SimpleNamespace(options=options, run=Run.open(options.run), record=record)


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of an encoder whose export stage is done: `options`, `run`, `record`. Read it, do not change it."""
    return _exported(make_text_run(tmp_path_factory.mktemp("text") / "a"))


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of a ResNet whose export stage is done, as `text_run`."""
    return _exported(make_image_run(tmp_path_factory.mktemp("image") / "a"))


@pytest.fixture
def traced(text_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders are not traced again: the stage copies the graphs of `text_run`, whose bytes would be the same."""
    run = text_run.run
    known = {run.read_json(role.record)["parameters"]: run.path / role.folder for role in ROLES.values()}

    def copy(self: Any, folded: Any, path: Path, options: Any, metadata: Any) -> list[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(known[folded.spec.count_parameters()] / "onnx/model.onnx", path)
        return [path]

    monkeypatch.setattr(type(find_family("encoder")), "export", copy)
