"""The closed form of a ResNet: exact where nothing is lost, and better than folding alone elsewhere."""

import pytest
import torch

from rmtkd_edge.compress.conv_warm_start import warm_start
from rmtkd_edge.families import convnet, resnet
from rmtkd_edge.families.convnet import ConvNet

LABELS = ("a", "b", "c")
NEARLY = 0.02  # exact but for channels that fire so rarely that the sampled patches do not show them


def teacher_of(depth: int, stem: str = "cifar", dead: int = 0) -> ConvNet:
    """A small ResNet with random norms; of every inner width, and of every stream, `dead` channels are always 0."""
    torch.manual_seed(0)
    net = (
        resnet.initialise(ConvNet(resnet.resnet_spec(depth, LABELS, width=8, stem=stem, image_size=16))).double().eval()
    )
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, convnet.BatchNorm):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.4)
                if dead:
                    module.weight[-dead:], module.bias[-dead:] = 0.0, 0.0
    return net


def images(count: int = 6, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"pixel_values": torch.randn(32, 3, 16, 16, generator=generator, dtype=torch.float64)} for _ in range(count)
    ]


def error(net: ConvNet, teacher: ConvNet) -> float:
    with torch.no_grad():
        x = images(1, 9)[0]["pixel_values"]
        a, b = net(x), teacher(x)
    return float((a - b).norm() / b.norm())


def first_channels(net: ConvNet, keep: int | float, kinds=("inner", "stream")):
    return {
        s.name: torch.eye(s.width, dtype=torch.float64)[
            : int(keep * s.width) if isinstance(keep, float) else s.width - keep
        ]
        for s in net.spec.sites()
        if s.kind in kinds
    }


def test_nothing_cut_changes_nothing():
    teacher = teacher_of(18)
    student = warm_start(teacher, {}, images(), ridge=1e-9, seed=0)
    assert error(student, teacher) == 0.0


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "cifar"), (18, "imagenet")])
def test_channels_that_are_always_zero_cost_nothing(depth, stem):
    teacher = teacher_of(depth, stem, dead=3)
    student = warm_start(teacher, first_channels(teacher, 3), images(), ridge=1e-9, seed=0)
    assert student.parameter_count() < teacher.parameter_count()
    assert error(student, teacher) < NEARLY


def test_every_site_alone_is_fitted(depth=18):
    teacher = teacher_of(depth, dead=2)
    for site in teacher.spec.sites():
        p = {site.name: torch.eye(site.width, dtype=torch.float64)[:-2]}
        student = warm_start(teacher, p, images(), ridge=1e-9, seed=0)
        assert error(student, teacher) < NEARLY, site.name


def test_more_channels_never_mean_much_more_error():
    teacher = teacher_of(18)
    errors = [
        error(warm_start(teacher, first_channels(teacher, k, ("inner",)), images(), ridge=1e-4, seed=0), teacher)
        for k in (0.25, 0.5, 0.875)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_the_student_unfolds_behind_fixed_projections():
    teacher = teacher_of(18)
    p = first_channels(teacher, 0.5)
    student = warm_start(teacher, p, images(), ridge=1e-4, seed=0)
    x = images(1, 3)[0]["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(convnet.unfold(student, p)(x), student(x), rtol=1e-9, atol=1e-12)
