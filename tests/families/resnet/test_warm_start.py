"""The closed form of a ResNet: exact where nothing is lost, and better than folding alone elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from families.resnet.sample import small_resnet
from torch import Tensor

from rmtkd_edge.families import convolution_fit
from rmtkd_edge.families.resnet import FAMILY
from rmtkd_edge.families.resnet.fold import plain_fold
from rmtkd_edge.families.resnet.layer_outputs import layer_outputs
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.warm_start import warm_start
from rmtkd_edge.families.teacher_layers import TeacherLayers

LABELS = ("a", "b", "c")
EXACT = 1e-5  # on the images that were fitted, under a ridge of 1e-9


def teacher_of(depth: int, stem: str = "cifar", dead: int = 0) -> ResNet:
    return small_resnet(depth, stem, LABELS, dead).double()


def images(count: int = 6, seed: int = 1) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"pixel_values": torch.randn(32, 3, 16, 16, generator=generator, dtype=torch.float64)} for _ in range(count)
    ]


@pytest.fixture
def every_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit on all patches: channels that fire rarely are not seen in a sample of them."""
    monkeypatch.setattr(convolution_fit, "ROWS_PER_FEATURE", 10**6)


def closed_form(teacher: ResNet, projections: dict[str, Tensor], ridge: float) -> ResNet:
    return warm_start(TeacherLayers(teacher, images(), layer_outputs, seed=0), projections, ridge=ridge)


def error(net: ResNet, teacher: ResNet, seed: int = 9) -> float:
    with torch.no_grad():
        x = images(1, seed)[0]["pixel_values"]
        a, b = net(x), teacher(x)
    return float((a - b).norm() / b.norm())


def first_channels(net: ResNet, keep: int | float, kinds: Sequence[str] = ("inner", "stream")) -> dict[str, Tensor]:
    return {
        s.name: torch.eye(s.width, dtype=torch.float64)[
            : int(keep * s.width) if isinstance(keep, float) else s.width - keep
        ]
        for s in net.spec.sites()
        if s.kind in kinds
    }


def test_nothing_cut_changes_nothing() -> None:
    teacher = teacher_of(18)
    student = closed_form(teacher, {}, 1e-9)
    assert error(student, teacher) == 0.0


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "cifar"), (18, "imagenet")])
def test_channels_that_are_always_zero_cost_nothing(depth: int, stem: str, every_patch: None) -> None:
    teacher = teacher_of(depth, stem, dead=3)
    student = closed_form(teacher, first_channels(teacher, 3), 1e-9)
    assert student.spec.count_parameters() < teacher.spec.count_parameters()
    assert error(student, teacher, seed=1) < EXACT


def test_every_site_alone_is_fitted(every_patch: None) -> None:
    teacher = teacher_of(18, dead=2)
    for site in teacher.spec.sites():
        p = {site.name: torch.eye(site.width, dtype=torch.float64)[:-2]}
        student = closed_form(teacher, p, 1e-9)
        assert error(student, teacher, seed=1) < EXACT, site.name


def test_more_channels_never_mean_more_error_on_what_was_fitted(every_patch: None) -> None:
    teacher = teacher_of(18)
    errors = [
        error(closed_form(teacher, first_channels(teacher, k, ("inner",)), 1e-4), teacher, seed=1)
        for k in (0.25, 0.5, 0.875)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_the_student_unfolds_with_fixed_projections() -> None:
    teacher = teacher_of(18)
    p = first_channels(teacher, 0.5)
    student = closed_form(teacher, p, 1e-4)
    x = images(1, 3)[0]["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.unfold(student, p)(x), student(x), rtol=1e-9, atol=1e-12)


def test_folding_alone_keeps_a_net_whose_dropped_channels_are_zero_and_is_worse_elsewhere() -> None:
    dead = teacher_of(18, dead=3)
    assert error(plain_fold(dead, first_channels(dead, 3)), dead) < EXACT
    teacher = teacher_of(18)
    p = first_channels(teacher, 0.5)
    assert error(closed_form(teacher, p, 1e-4), teacher) < error(plain_fold(teacher, p), teacher)
