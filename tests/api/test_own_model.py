"""The user's own module as a model of the package, and the batches that are read with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api.own_sample import ROWS, Own, logits, small_bert
from torch import Tensor, nn
from torch.utils.data import DataLoader

import rmtkd_edge as rk
from rmtkd_edge.config.recipe import Distil
from rmtkd_edge.errors import DataError, UserError


def test_the_verbs_are_functions_although_packages_are_called_like_them() -> None:
    import rmtkd_edge.compress.loop
    import rmtkd_edge.export.stage
    import rmtkd_edge.profile.stage
    import rmtkd_edge.report.stage

    for verb in (rk.compress, rk.export, rk.profile, rk.report):
        assert callable(verb)
    assert rmtkd_edge.compress is rk.compress and rmtkd_edge.compress.loop.run_loop
    assert all(getattr(rk, name) is not None for name in rk.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = rk.comprss


def test_a_librarys_module_keeps_its_logits_and_is_left_as_it_is(own: Own) -> None:
    before = {name: value.clone() for name, value in own.module.state_dict().items()}
    found = logits(own.model, own.batches[0])
    torch.testing.assert_close(found, own.reference, rtol=1e-4, atol=1e-4 * float(own.reference.abs().max()))
    own.model.train()
    own.model.eval()
    assert all(torch.equal(value, before[name]) for name, value in own.module.state_dict().items())


def test_any_other_module_is_refused_with_what_is_known() -> None:
    with pytest.raises(UserError, match="Linear") as caught:
        rk.from_transformers(nn.Linear(2, 2))
    assert "encoder" in str(caught.value.hint)


def test_a_module_that_was_not_taken_over_is_refused_with_what_to_call(own: Own) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: rk.analyse(own.module, own.batches),
        lambda: rk.distil(own.module, own.model, own.batches),
        lambda: rk.export(own.module, "out"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=type(own.module).__name__) as caught:
            call()
        assert "from_transformers" in caught.value.hint


def test_lists_generators_and_data_loaders_give_the_same_spectra(bert: Own, spectra: rk.Spectra) -> None:
    def stream() -> Iterator[dict[str, Tensor]]:
        yield from bert.batches

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return ROWS * len(bert.batches)

        def __getitem__(self, row: int) -> dict[str, Tensor]:
            return {name: value[row % ROWS] for name, value in bert.batches[row // ROWS].items()}

    for loader in (stream(), DataLoader(Rows(), batch_size=ROWS)):
        again = rk.analyse(bert.model, loader)
        for a, b in zip(again.sites, spectra.sites, strict=True):
            np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-6, atol=1e-9)


def test_what_is_no_batch_says_what_is_missing(bert: Own) -> None:
    batch = bert.batches[0]
    bad: list[tuple[str, Any]] = [
        ("attention_mask", [{"input_ids": torch.ones(2, 3, dtype=torch.long)}]),
        ("no batch", []),
        ("a batch is a tuple", [(batch["input_ids"], batch["labels"])]),
        ("`text` is no tensor", [{**batch, "text": ["a film"] * ROWS}]),
    ]
    for match, loader in bad:
        with pytest.raises(DataError, match=match):
            rk.analyse(bert.model, loader)


def test_a_task_must_read_what_the_model_reads(bert: Own) -> None:
    with pytest.raises(UserError, match="the model reads text") as caught:
        rk.analyse(bert.model, bert.batches, task="image-classification")
    assert "text-classification" in caught.value.hint


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_a_model_of_another_task_goes_all_the_way(bert: Own, tmp_path: Path, kind: str) -> None:
    module = small_bert(int(bert.batches[0]["input_ids"].max()) + 5, labels=2 if kind == "multi-label" else 1)
    model = rk.from_transformers(module, ["odd", "even"] if kind == "multi-label" else ["score"])
    parity = [batch["labels"].float()[:, None] for batch in bert.batches]
    targets = [torch.cat([p, 1 - p], 1) if kind == "multi-label" else p[:, 0] for p in parity]
    batches = [{**batch, "labels": target} for batch, target in zip(bert.batches, targets, strict=True)]
    if kind == "regression":
        with pytest.raises(UserError, match="one output, and text-classification chooses among several") as caught:
            rk.analyse(model, batches)
        assert "task='regression'" in caught.value.hint
    spectra = rk.analyse(model, batches, task=kind)
    student = rk.compress(model, rk.plan(spectra, reduction=0.4, align=2), batches)
    options = Distil(steps=4, evaluate_every=4)
    student = rk.distil(student, model, batches[:-4], evaluate=batches[-4:], task=kind, options=options)
    found = rk.export(student, tmp_path / "out", loader=batches, task=kind, **bert.extra)
    assert found.record.kind == kind and found.record.variants["fp32"].validation is not None
    answers = rk.load(tmp_path / "out").predict(["the film", "a plot"])
    assert answers.outputs.shape == (2, len(found.record.labels)) and len(answers.labels) == 2
