"""Compression on a GPU, by a stand-in: nothing is left on the wrong device, whatever the family and the method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_sample import SMALL, found, recipe_of, serves, third_party
from gpu_stand_in import GPU, gpu_stand_in

from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.base import find_family
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.compress import CompressRecord


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with third_party(tmp_path_factory.mktemp("site")) as path:
        yield path


def compressed(recipe: Recipe, data: Path, path: Path) -> CompressRecord:
    run = Run.create(path, recipe.to_toml(), recipe.seed)
    return compress_run(run, recipe, data=data, reporter=SimpleNamespace(event=lambda *a, **k: None))


def test_tensors_on_two_devices_do_not_meet() -> None:
    with gpu_stand_in():
        there = torch.ones(2, 3, device=GPU)
        assert there.device == GPU and (there + 1).device == GPU and there.cpu().device.type == "cpu"
        with pytest.raises(RuntimeError, match="on the same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    ("family", "method"),
    [*((family, "rmt-kd") for family in found("families")), *((None, name) for name in found("methods"))],
)
def test_every_family_and_method_runs_on_one(
    family: str | None, method: str, tiny_tokenizer: Path, tiny_data: Path, tiny_images: Path, tmp_path: Path
) -> None:
    if family is None:  # one that the method serves
        family = next(name for name in ("mlp", "encoder", "resnet") if serves(method, name, tiny_tokenizer))
    compress = {"method": method, "sites_per_cycle": 20}
    recipe = recipe_of(family, tiny_tokenizer, compress=compress, stop={"target_reduction": 0.3})
    data = tiny_data if find_family(family).modality == "text" else tiny_images
    with gpu_stand_in():
        record = compressed(recipe, data, tmp_path / "run")
    assert record.device == str(GPU) and record.reduction > 0


FURTHER: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # families, and sections of the recipe
    "search": (
        ("encoder", "resnet", "vit"),
        {"compress": {"allocation": "kl", "fit_output_layer": True}, "distil": {"match": 3.0, "states_first": 0.5}},
    ),
    "fewer words and layers": (
        ("encoder", "modernbert"),
        {"compress": {"vocabulary": 2, "layers": 1}, "distil": {"match": 1.0}},
    ),
    "projected, folded": (
        ("encoder", "resnet"),
        {"compress": {"channels": "project", "warm_start": "fold"}, "distil": {"through_projection": True}},
    ),
    "distances": (("encoder",), {"model": {"shape": {**SMALL["encoder"], "model_type": "deberta-v2"}}}),
    "factors": (("resnet",), {"compress": {"mode": {"inner": "factor"}}}),
    "spectra": (
        ("encoder",),
        {"analyse": {"rule": "parallel", "scale_columns": True, "effective_samples": True}},
    ),
}


@pytest.mark.parametrize(
    ("family", "sections"),
    [pytest.param(f, sections, id=f"{f}-{name}") for name, (serves, sections) in FURTHER.items() for f in serves],
)
def test_further_settings_run_on_one(
    family: str, sections: dict[str, Any], tiny_tokenizer: Path, tiny_data: Path, tiny_images: Path, tmp_path: Path
) -> None:
    compress = {"sites_per_cycle": 20, **sections.get("compress", {})}
    stop = {"target_reduction": 0.3, **sections.get("stop", {})}
    recipe = recipe_of(family, tiny_tokenizer, **{**sections, "compress": compress, "stop": stop})
    data = tiny_data if find_family(family).modality == "text" else tiny_images
    with gpu_stand_in():
        record = compressed(recipe, data, tmp_path / "run")
    assert record.reduction > 0
