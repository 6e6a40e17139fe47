"""The module computes what transformers' ModernBERT classifier does, and reads what a local layer may see."""

from __future__ import annotations

import pytest
import torch
from families.modernbert.sample import LABELS, POSITIONS, WINDOW, make_model, padded_ids, tiny_classifier

import rmtkd_edge
from rmtkd_edge.families.modernbert.sources import CLASSIFIERS

BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
VARIANTS = {
    "cls": {"classifier_pooling": "cls"},
    "mean": {"classifier_pooling": "mean"},
    "biases": {**BIASES, "hidden_activation": "silu", "classifier_activation": "gelu_pytorch_tanh"},
    "pattern": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]},
    "thetas": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        }
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_transformers(variant: str, attention: str) -> None:
    theirs = tiny_classifier(attention, **VARIANTS[variant])
    ours = CLASSIFIERS.from_transformers(theirs).eval()
    for batch in (1, 8):
        for length in (1, 2, WINDOW + 1, 2 * WINDOW, POSITIONS):
            for side in ("right", "left"):
                if attention == "sdpa" and side == "left" and length > 2 * WINDOW:
                    continue  # the next test is about these
                ids, mask = padded_ids(batch, length, side)
                with torch.no_grad():
                    wanted, found = theirs(input_ids=ids, attention_mask=mask).logits, ours(ids, mask)
                assert (wanted - found).abs().max() < 1e-5 * wanted.abs().max(), (batch, length, side)


def test_a_window_of_padding_alone_attends_as_transformers_eager_attention_does() -> None:
    """There transformers' two ways differ; only a first token that is padding, with `cls`, ever shows it."""
    ids, mask = torch.full((1, 20), 5), torch.ones(1, 20, dtype=torch.long)
    ids[:, :12], mask[:, :12] = 1, 0
    eager, sdpa = (tiny_classifier(way, classifier_pooling="cls") for way in ("eager", "sdpa"))
    with torch.no_grad():
        wanted, other = (model(input_ids=ids, attention_mask=mask).logits for model in (eager, sdpa))
        found = CLASSIFIERS.from_transformers(eager).eval()(ids, mask)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - other).abs().max() > 1e-3


def test_padding_changes_nothing() -> None:
    for pooling in ("cls", "mean"):
        model = make_model(classifier_pooling=pooling)
        ids, mask = padded_ids(1, 9)
        more = torch.nn.functional.pad(ids, (0, 25), value=1), torch.nn.functional.pad(mask, (0, 25))
        with torch.no_grad():
            torch.testing.assert_close(model(*more), model(ids, mask), rtol=1e-5, atol=1e-6)


def test_local_layers_see_no_further_than_the_window() -> None:
    model = make_model(layer_types=["sliding_attention"] * 2, num_hidden_layers=2)
    ids, mask = padded_ids(1, 30)
    other = ids.clone()
    other[0, 15] = ids[0, 15] % 50 + 2
    taps: list[dict[str, torch.Tensor]] = [{}, {}]
    with torch.no_grad():
        for tokens, seen in zip((ids, other), taps, strict=True):
            model(tokens, mask, tap=seen.__setitem__)
    changed = (taps[0]["stream.1"] != taps[1]["stream.1"]).any(-1)[0].nonzero().flatten().tolist()
    assert changed == list(range(15 - WINDOW, 15 + WINDOW + 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_finite_gradients_where_a_window_holds_padding_alone(dtype: torch.dtype) -> None:
    model = make_model(classifier_pooling="mean").train()
    ids, mask = padded_ids(4, 40)
    with torch.autocast("cpu", dtype):
        loss = model(ids, mask).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        cast = make_model(classifier_pooling="mean").to(dtype)(ids, mask).float()
        torch.testing.assert_close(cast, make_model(classifier_pooling="mean")(ids, mask), rtol=0.1, atol=0.1)


def test_parameters_are_those_of_transformers() -> None:
    for changes in ({}, BIASES):
        theirs = tiny_classifier(**changes)
        ours = CLASSIFIERS.from_transformers(theirs)
        wanted = sum(p.numel() for p in theirs.parameters())
        assert ours.spec.count_parameters() == wanted == sum(p.numel() for p in ours.parameters())


def test_the_python_api_takes_the_module() -> None:
    theirs = tiny_classifier(classifier_pooling="mean")
    ours = rmtkd_edge.from_transformers(theirs, LABELS)
    ids, mask = padded_ids(4, 30)
    assert ours.spec.family == "modernbert" and ours.spec.labels == LABELS
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, mask), theirs(input_ids=ids, attention_mask=mask).logits)
