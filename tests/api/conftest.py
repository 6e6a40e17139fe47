"""A small model of each library and, of the encoder, its spectra and a student, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from api.own_sample import SIDE, Own, SmallResNet, image_batches, small_bert, text_batches

import rmtkd_edge as rk


@pytest.fixture(scope="session")
def bert(tiny_tokenizer: Path) -> Own:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    module, batches = small_bert(len(tokenizer)), text_batches(len(tokenizer))
    with torch.no_grad():
        reference = module(batches[0]["input_ids"], batches[0]["attention_mask"]).logits
    return Own(module, rk.from_transformers(module), batches, reference, {"tokenizer": tokenizer})


@pytest.fixture(scope="session")
def resnet() -> Own:
    torch.manual_seed(0)
    module, batches = SmallResNet().eval(), image_batches(12)
    with torch.no_grad():
        reference = module(batches[0]["pixel_values"])
    model = rk.from_torchvision(module, ["dark", "bright"], image_size=SIDE)
    return Own(module, model, batches, reference, {})


@pytest.fixture(scope="session", params=["bert", "resnet"])
def own(request: pytest.FixtureRequest) -> Own:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def spectra(bert: Own) -> rk.Spectra:
    return rk.analyse(bert.model, bert.batches)


@pytest.fixture(scope="session")
def cut(bert: Own, spectra: rk.Spectra) -> tuple[rk.Plan, Any]:
    plan = rk.plan(spectra, reduction=0.4, align=2)
    return plan, rk.compress(bert.model, plan, bert.batches)
