"""AT and FitNet against formulas written down independently from their authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_sample import recipe_of
from methods.methods_sample import example
from torch.nn import functional as F

from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.methods.base import find_method

EXACT: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}


def stages(model: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Return what every stage of a net gives, by running it block by block."""
    state, found = model.pool(F.relu(model.stem(pixels))), []
    for blocks in model.stages:
        for block in blocks:
            state = block(state)
        found.append(state)
    return found


def test_attention_transfer_is_the_authors_loss(tiny_tokenizer: Any) -> None:
    """szagoruyko/attention-transfer, utils.py: at(x) = normalize(mean over channels of x^2), at_loss = mean((a - b)^2);
    cifar.py: cross-entropy + beta times the sum over groups, beta = 1000."""
    case = example("at", "resnet", tiny_tokenizer)
    pixels, labels = case.batch["pixel_values"], case.batch["labels"]
    expected = F.cross_entropy(case.student(pixels), labels)
    for s, t in zip(stages(case.student, pixels), stages(case.teacher, pixels), strict=True):
        maps = [(x**2).mean(dim=1).reshape(len(x), -1) for x in (s, t)]
        a, b = (m / m.norm(dim=1, keepdim=True) for m in maps)
        expected = expected + 1000 * ((a - b) ** 2).mean()
    assert len(case.objective.taps) == 4
    torch.testing.assert_close(case.loss(), expected, **EXACT)


def test_fitnet_is_repdistillers_loss(tiny_tokenizer: Any) -> None:
    """HobbitLong/RepDistiller: HintLoss is nn.MSELoss, ConvReg relu(bn(conv(f_s))) with a 1 x 1 convolution where the
    sizes agree, hint_layer 2 is what layer2 gives (feat[0] is the stem's); gamma = 1, beta = 100 (scripts)."""
    case = example("fitnet", "resnet", tiny_tokenizer)
    pixels, labels = case.batch["pixel_values"], case.batch["labels"]
    s, t = stages(case.student, pixels)[1], stages(case.teacher, pixels)[1]
    assert s.shape[1] < t.shape[1] and s.shape[2:] == t.shape[2:]
    weights = case.objective.helper.state_dict()  # type: ignore[union-attr]
    mapped = torch.einsum("oc,bchw->bohw", weights["0.weight"][..., 0, 0], s) + weights["0.bias"][:, None, None]
    mean, var = mapped.mean((0, 2, 3), keepdim=True), mapped.var((0, 2, 3), keepdim=True, unbiased=False)
    scale, shift = weights["1.weight"][:, None, None], weights["1.bias"][:, None, None]
    hint = (((mapped - mean) / (var + 1e-5).sqrt() * scale + shift).clamp_min(0) - t).square().mean()
    expected = F.cross_entropy(case.student(pixels), labels) + 100 * hint
    torch.testing.assert_close(case.loss(), expected, **EXACT)
    case.loss().backward()
    assert all(p.grad is not None for p in case.objective.helper.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["at", "fitnet"])
def test_a_family_without_stages_is_refused_with_all_other_faults(name: str, tiny_tokenizer: Any) -> None:
    compress = {"method": name, "one_shot": True, "allocation": "kl"}
    recipe = recipe_of("encoder", tiny_tokenizer, compress=compress, distil={"match": 1.0})
    with pytest.raises(RecipeError, match="serves mobilenet, resnet") as caught:
        find_method(name).check(recipe, find_family("encoder"))
    assert all(word in caught.value.message for word in ("one_shot", "allocation", "match"))
    assert len(caught.value.message.splitlines()) == 4
