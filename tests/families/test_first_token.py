"""Where a head reads the first token alone, the last layer computes no other; a pass that is tapped computes all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families.encoder.sample import KINDS, make_batch, make_encoder, make_spec
from families.modernbert.sample import make_model, padded_ids
from families.vit.sample import images, ours
from torch import Tensor, nn


def encoder(kind: str) -> Callable[[], tuple[Any, tuple[Tensor, ...]]]:
    batch = make_batch()
    return lambda: (make_encoder(make_spec(kind)), (batch["input_ids"], batch["attention_mask"]))


def modernbert(side: str, *layers: str) -> Callable[[], tuple[Any, tuple[Tensor, ...]]]:
    return lambda: (make_model(classifier_pooling="cls", layer_types=[*layers]), padded_ids(4, 20, side))


CASES: dict[str, Callable[[], tuple[Any, tuple[Tensor, ...]]]] = {
    **{kind: encoder(kind) for kind in KINDS},
    "modernbert, global last": modernbert("right", *["sliding_attention"] * 3, "full_attention"),
    "modernbert, local last": modernbert("right", *["full_attention"] * 3, "sliding_attention"),
    "modernbert, first token padded": modernbert("left", *["full_attention"] * 3, "sliding_attention"),
    "vit": lambda: (ours(), (images(),)),
}


def outputs_and_gradients(model: nn.Module, inputs: tuple[Tensor, ...], **given: Any) -> tuple[Tensor, list[Tensor]]:
    logits = model(*inputs, **given)
    return logits.detach(), list(torch.autograd.grad(logits.square().sum(), [*model.parameters()], allow_unused=True))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_all_tokens(case: str) -> None:
    model, inputs = CASES[case]()
    widths: list[tuple[int, int]] = []
    model.layers[-1].up.register_forward_hook(lambda layer, args, out: widths.append(out.shape[:2]))
    shorter, whole = outputs_and_gradients(model, inputs), outputs_and_gradients(model, inputs, tap=lambda *_: None)
    batch = len(inputs[0])
    assert widths[-1][1] > 1, "a pass that is tapped has all tokens"
    assert (batch, 1) in widths, "one that is not has the first alone"
    torch.testing.assert_close(shorter[0], whole[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(shorter[1], whole[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_head_that_reads_all_tokens_gets_all() -> None:
    model, (ids, mask) = make_model(classifier_pooling="mean"), padded_ids(4, 20)
    widths: list[int] = []
    model.layers[-1].up.register_forward_hook(lambda layer, args, out: widths.append(out.shape[1]))
    model(ids, mask)
    vit = ours(pool="mean")
    vit.layers[-1].up.register_forward_hook(lambda layer, args, out: widths.append(out.shape[1]))
    vit(images())
    assert min(widths) > 1
