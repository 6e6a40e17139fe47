"""The graph beyond what every family's must do: inputs longer than the window, smoothing before int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from families.modernbert.sample import make_model, padded_ids

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.export.portable import make_portable
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.smooth import second_products
from rmtkd_edge.sessions import open_session, run_session

FAMILY, LONG = find_family("modernbert"), 700


@pytest.fixture(scope="module", params=["fast", "portable"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, str]:
    """A model of 1024 positions, its file, and the graph's name."""
    model = make_model(max_position_embeddings=1024, local_attention=128, classifier_pooling="mean")
    with torch.no_grad():
        for layer in model.layers:  # positions are to matter
            layer.query.weight *= 6
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    FAMILY.export(model, path, Export(graph=request.param), {})
    if request.param == "portable":
        make_portable(path)
    return model, path, request.param


def test_long_inputs_agree(exported: tuple[Any, Path, str]) -> None:
    model, path, _ = exported
    ids, mask = padded_ids(4, LONG)
    with torch.no_grad():
        wanted = model(ids, mask).numpy()
    found = run_session(open_session(path, threads=1), {"input_ids": ids, "attention_mask": mask})
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_int8_finds_the_second_product_of_every_layer(exported: tuple[Any, Path, str]) -> None:
    model, path, _ = exported
    assert len(second_products(onnx.load(str(path)))) == len(model.layers)
