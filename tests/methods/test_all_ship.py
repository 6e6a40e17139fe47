"""Every method's student through the same export, in int8 too, and the same report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contract_sample import recipe_of, serves
from methods.methods_sample import run_of

import rmtkd_edge
from rmtkd_edge import plugins
from rmtkd_edge.api.export import ExportOptions, export_run
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in plugins.names("methods") if name not in ("rmt-kd", "plain-kd")])
def test_export_and_report(name: str, tiny_tokenizer: Any, tiny_data: Any, tiny_images: Any, tmp_path: Any) -> None:
    family = next(f for f in ("encoder", "resnet") if serves(name, f, tiny_tokenizer))
    data, path = tiny_data if find_family(family).modality == "text" else tiny_images, tmp_path / name
    recipe = recipe_of(family, tiny_tokenizer, compress={"method": name}, stop={"target_reduction": 0.4, "max_drop": 1})
    result = run_of(name, recipe, data, path)
    exported = export_run(ExportOptions(run=path))
    best = load_model(Run.open(path), layout.BEST)
    assert exported.variants["fp32"].size_bytes > 0 and "int8" in exported.variants
    assert exported.parameters == best.spec.count_parameters()
    texts, images = ["the film was great", "a dull plot"], np.load(tiny_images / "test.npz")["images"][:2]
    items: list[Any] = texts if family == "encoder" else list(images)
    onnx, torch = (rmtkd_edge.load(path, backend=backend).predict(items).outputs for backend in ("onnx", "torch"))
    np.testing.assert_allclose(onnx, torch, rtol=1e-3, atol=1e-4)
    page = rmtkd_edge.report(path).html.read_text(encoding="utf-8")
    assert plugins.find("methods", name).title in page
    assert ("→ left out" in page) == any(site.width_after == 0 for site in result.cycles[0].sites)
