"""Magnitude pruning and PCA: which channels and directions stay, at one budget, with RMT-KD's closed form or none."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_sample import batches_of, load, randomised, recipe_of

from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import call, find_family
from rmtkd_edge.methods.base import Cut, Pair, find_method
from rmtkd_edge.methods.magnitude import METHOD, group_norms, largest_channels
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks.base import find_task


@pytest.fixture(scope="module", params=["encoder", "resnet"])
def teacher(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Any:
    return randomised(load(find_family(request.param), tiny_tokenizer))


def test_group_norms_are_those_of_torch_pruning(tiny_tokenizer: Any) -> None:
    """VainF/Torch-Pruning, torch_pruning/pruner/importance.py, GroupMagnitudeImportance (p = 2, sum, no biases).

    Rows of convolutions and linear layers that write a channel, columns of those that read it, and norms' scales, each
    squared and summed.
    """
    net = randomised(load(find_family("resnet"), tiny_tokenizer))
    state = {name: value.double() for name, value in net.named_parameters()}

    def rows(name: str) -> torch.Tensor:
        return state[name].square().flatten(1).sum(1)

    def columns(name: str) -> torch.Tensor:
        return state[name].square().transpose(0, 1).flatten(1).sum(1)

    inner = rows("stages.0.0.convs.0.conv.weight") + state["stages.0.0.convs.0.norm.weight"].square()
    inner += columns("stages.0.0.convs.1.conv.weight")
    torch.testing.assert_close(group_norms(find_family("resnet"), net, "layer.1.block.0.conv1"), inner.detach())
    writers = ("stages.3.0.convs.1", "stages.3.1.convs.1", "stages.3.0.downsample")
    stream = sum(rows(f"{name}.conv.weight") + state[f"{name}.norm.weight"].square() for name in writers)
    stream = stream + columns("stages.3.1.convs.0.conv.weight") + columns("classifier.weight")
    torch.testing.assert_close(group_norms(find_family("resnet"), net, "layer.4.stream"), stream.detach())


def test_group_norms_of_an_encoders_channels(tiny_tokenizer: Any) -> None:
    model = randomised(load(find_family("encoder"), tiny_tokenizer))
    layer = model.layers[0]
    ffn = layer.up.weight.double().square().sum(1) + layer.down.weight.double().square().sum(0)
    torch.testing.assert_close(group_norms(find_family("encoder"), model, "layer.0.ffn"), ffn.detach())
    qk = (layer.query.weight.double().square() + layer.key.weight.double().square()).sum(1)
    torch.testing.assert_close(group_norms(find_family("encoder"), model, "layer.0.qk"), qk.detach())


def test_channels_that_do_nothing_go_first_and_nothing_changes(teacher: Any) -> None:
    family = find_family(teacher.spec.family)
    site = next(s for s in teacher.spec.sites() if s.kind in ("ffn", "inner"))
    with torch.no_grad():
        for name, value in teacher.named_parameters():
            if name.startswith(("layers.0.up.", "stages.0.0.convs.0.")):
                value[::2] = 0.0
            if name in ("layers.0.down.weight", "stages.0.0.convs.1.conv.weight"):
                value[:, ::2] = 0.0
    kept = largest_channels(family, teacher, {site.name: site.width // 2})[site.name]
    assert torch.equal(kept, torch.eye(site.width, dtype=torch.float64)[1::2])
    batches, recipe = batches_of(teacher.spec), recipe_of(family.name, "")
    cut = Cut({site.name: site.width // 2})
    student = METHOD.initial_student(family, teacher, cut, lambda: batches, lambda: batches, recipe).eval()
    assert student.spec == teacher.spec.with_ranks(cut.widths)
    with torch.no_grad():
        torch.testing.assert_close(call(student, batches[0]), call(teacher.eval(), batches[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["magnitude", "pca"])
def test_inner_states_are_matched_where_the_recipe_asks_for_it(name: str, tiny_tokenizer: Any) -> None:
    family = find_family("encoder")
    recipe = recipe_of("encoder", tiny_tokenizer, compress={"method": name}, distil={"match": 1.0})
    find_method(name).check(recipe, family)
    teacher = load(family, tiny_tokenizer)
    batches = batches_of(teacher.spec)
    pair = Pair(family, teacher, copy.deepcopy(teacher), lambda: batches)
    objective = find_method(name).objective(find_task("text-classification"), recipe, pair)
    assert objective.taps == family.stream_taps(teacher.spec)


def test_latent_sites_and_the_allocation_are_refused(tiny_tokenizer: Any, tiny_data: Any) -> None:
    recipe = recipe_of("encoder", tiny_tokenizer, compress={"method": "magnitude", "sites": ["embedding"]})
    family = find_family("encoder")
    with pytest.raises(RecipeError, match="embedding has none"):
        METHOD.widths(load(family, tiny_tokenizer).spec, family, recipe, 1)
    for name in ("magnitude", "pca"):
        with pytest.raises(RecipeError, match=f"allocation = kl .* {name}"):
            prepare(recipe_of("encoder", tiny_tokenizer, compress={"method": name, "allocation": "kl"}), tiny_data)


@pytest.mark.parametrize("one_shot", [False, True])
@pytest.mark.parametrize("name", ["magnitude", "pca"])
def test_one_cycle_meets_the_target(
    name: str, one_shot: bool, tiny_tokenizer: Any, tiny_images: Any, tmp_path: Any
) -> None:
    compress = {"method": name, "one_shot": one_shot}
    recipe = recipe_of("resnet", tiny_tokenizer, compress=compress, stop={"target_reduction": 0.5})
    run = Run.create(tmp_path / name, recipe.to_toml(), 0)
    result = compress_run(run, recipe, data=tiny_images, reporter=SimpleNamespace(event=lambda *a, **k: None))
    (cycle,) = result.cycles
    assert (cycle.steps == 0) == one_shot
    assert 0.5 <= result.reduction < 0.6 and result.method == name and result.stop == "target_reduction"
    assert {site.rule for site in cycle.analysed} == ({"explained-variance"} if name == "pca" else set())
    assert {site.weighting for site in cycle.analysed} <= {"none"}
