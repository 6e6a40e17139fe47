"""The closed form of a MobileNet: exact where nothing is lost, and better than folding alone elsewhere."""

from __future__ import annotations

import pytest
import torch
from families.mobilenet.sample import small_mobilenet
from torch import Tensor

from rmtkd_edge.families.mobilenet import FAMILY
from rmtkd_edge.families.mobilenet.fold import plain_fold
from rmtkd_edge.families.mobilenet.layer_outputs import layer_outputs
from rmtkd_edge.families.mobilenet.module import MobileNet
from rmtkd_edge.families.mobilenet.warm_start import warm_start
from rmtkd_edge.families.teacher_layers import TeacherLayers

EXACT = 1e-4


def images(count: int = 4, seed: int = 1) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"pixel_values": torch.randn(32, 3, 16, 16, generator=generator, dtype=torch.float64)} for _ in range(count)
    ]


def closed_form(teacher: MobileNet, projections: dict[str, Tensor], ridge: float) -> MobileNet:
    return warm_start(TeacherLayers(teacher, images(), layer_outputs, seed=0), projections, ridge=ridge)


def error(net: MobileNet, teacher: MobileNet, seed: int = 9) -> float:
    with torch.no_grad():
        x = images(1, seed)[0]["pixel_values"]
        a, b = net(x), teacher(x)
    return float((a - b).norm() / b.norm())


def first_channels(net: MobileNet, kind: str, less: int | float) -> dict[str, Tensor]:
    sites = [site for site in net.spec.sites() if site.kind == kind and site.name != "stream.0"]
    kept = {s.name: s.width - less if isinstance(less, int) else int((1 - less) * s.width) for s in sites}
    return {s.name: torch.eye(s.width, dtype=torch.float64)[: kept[s.name]] for s in sites}


@pytest.mark.parametrize("version", ["v2", "v3-small"])
@pytest.mark.parametrize("start", ["least-squares", "fold"])
def test_channels_that_are_always_zero_can_go(version: str, start: str) -> None:
    teacher = small_mobilenet(version, dead=3).double()
    p = first_channels(teacher, "inner", 3)
    if start == "fold":
        student = plain_fold(teacher, p)
    else:
        student = closed_form(teacher, p, 1e-9)
    assert student.spec.count_parameters() < teacher.spec.count_parameters()
    assert error(student, teacher, seed=1) < EXACT


@pytest.mark.parametrize("version", ["v2", "v3-large"])
def test_a_stream_that_does_not_fill_its_width_is_cut_exactly_in_any_basis(version: str) -> None:
    teacher = small_mobilenet(version).double()
    site = next(s for s in teacher.spec.sites() if s.name == "stream.2")
    basis = torch.linalg.qr(torch.randn(site.width, site.width, dtype=torch.float64))[0]
    kept = basis[: site.width - 2]
    with torch.no_grad():
        for layer in FAMILY.producers(teacher)[site.name]:
            layer.weight.copy_((kept.T @ kept @ layer.weight.flatten(1)).reshape(layer.weight.shape))
        for block in teacher.blocks:
            if block.ends == site.name:  # the norm scales and shifts within what is kept
                block.project.norm.weight.fill_(1.0)
                block.project.norm.running_var.fill_(1.0)
                block.project.norm.running_mean.zero_()
                block.project.norm.bias.copy_(kept.T @ kept @ block.project.norm.bias)
    student = closed_form(teacher, {site.name: kept}, 1e-9)
    assert error(student, teacher, seed=1) < 10 * EXACT


@pytest.mark.parametrize("version", ["v2", "v3-small"])
@pytest.mark.parametrize("kind", ["inner", "stream", "last"])
def test_least_squares_lose_less_than_folding_on_what_was_fitted(version: str, kind: str) -> None:
    teacher = small_mobilenet(version).double()
    p = first_channels(teacher, kind, 0.5)
    fitted = closed_form(teacher, p, 1e-4)
    assert error(fitted, teacher, seed=1) < error(plain_fold(teacher, p), teacher, seed=1)


def test_fewer_channels_mean_more_error_on_what_was_fitted() -> None:
    teacher = small_mobilenet("v2").double()
    errors = [
        error(closed_form(teacher, first_channels(teacher, "inner", less), 1e-4), teacher, 1)
        for less in (0.75, 0.5, 0.125)
    ]
    assert errors[0] > errors[1] > errors[2]
