"""Where nothing is trained afterwards, the output layer of a closed form is fitted to the divergence, and no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_sample import recipe_of
from families.encoder.sample import make_batch, make_encoder, make_spec

from rmtkd_edge.compress.ranks import output_layer
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Compress
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task


def test_it_is_fitted_where_nothing_else_is_trained() -> None:
    assert Compress(one_shot=True).fits_output_layer and not Compress().fits_output_layer
    assert (
        Compress(fit_output_layer=True).fits_output_layer
        and not Compress(one_shot=True, fit_output_layer=False).fits_output_layer
    )
    assert not Compress(one_shot=True, warm_start="fold").fits_output_layer, "that is algebra alone"


def test_a_fit_that_is_no_better_on_unseen_rows_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = make_encoder(make_spec()), make_encoder(make_spec(), seed=1)
    batches = [make_batch(8, 12, seed) for seed in range(3)]
    data = SimpleNamespace(warm=lambda: batches[:2], judged=lambda: batches[2:])
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    notes: list[str] = []
    context: Any = SimpleNamespace(
        data=data,
        task=find_task("text-classification"),
        accelerator=accelerator,
        report=lambda kind, text: notes.append(text),
    )
    before = {name: value.clone() for name, value in student.state_dict().items()}
    monkeypatch.setattr(
        output_layer, "closest", lambda rows, start, ridge: (-start[0], start[1] + torch.arange(3.0) * 9)
    )
    output_layer.fit_output_layer(context, teacher, student)
    assert len(notes) == 1 and "no fit to it is nearer" in notes[0]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("family", ["encoder", "resnet"])
def test_a_one_shot_differs_in_its_output_layer_alone(
    family: str, tmp_path: Path, tiny_tokenizer: Path, tiny_data: Path, tiny_images: Path
) -> None:
    students: dict[Any, Any] = {}
    notes: list[str] = []

    class Listener(SilentReporter):
        def event(self, kind: str, /, **facts: Any) -> None:
            notes.extend([facts["text"]] if kind == "note" and "output layer" in facts["text"] else [])

    for fitted in (None, False):
        compress = {"one_shot": True, "fit_output_layer": fitted, "align": False, "minimum_rank": 2}
        compress = {name: value for name, value in compress.items() if value is not None}
        recipe = recipe_of(family, tiny_tokenizer, compress=compress, stop={"target_reduction": 0.5})
        run = Run.create(tmp_path / str(fitted), recipe.to_toml(), recipe.seed)
        compress_run(run, recipe, data=tiny_data if family == "encoder" else tiny_images, reporter=Listener())
        students[fitted] = load_model(run, layout.BEST)
    a, b = (students[fitted].state_dict() for fitted in (None, False))
    differs = {name.partition(".")[0] for name in a if not torch.equal(a[name], b[name])}
    assert len(notes) == 1 and differs == ({"classifier"} if "fitted to it" in notes[0] else set())
