"""Places of maps: what a convolution reads there, and samples of samples."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.map_sample import of_images, sampled


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2)])
def test_patches_times_weights_are_the_convolution_at_the_places(kernel: int, stride: int) -> None:
    conv = ProjectedConv(5, 4, kernel, stride).double()
    x = torch.randn(3, 5, 12, 10, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.normal_()
        maps = conv(x)
        sample = sampled(maps, 40, seed=1)
        torch.testing.assert_close(sample.patches(conv, x) @ conv.weight.flatten(1).T, sample.values)
    torch.testing.assert_close(sample.of(2 * maps), 2 * sample.values)


def test_the_first_places_are_the_sample_of_fewer() -> None:
    maps = torch.randn(2, 3, 5, 4)
    first, fewer = sampled(maps, 30, seed=7).first(11), sampled(maps, 11, seed=7)
    assert first.maps == fewer.maps == (2, 5, 4)
    assert torch.equal(first.places, fewer.places) and torch.equal(first.values, fewer.values)
    assert not torch.equal(fewer.places, sampled(maps, 11, seed=8).places)


def test_a_sample_of_more_places_than_there_are_has_every_one_once() -> None:
    maps = torch.randn(2, 3, 5, 4)
    whole = sampled(maps, 1000, seed=0)
    assert torch.equal(whole.places.sort().values, torch.arange(40))
    pixels = F.unfold(maps, 1).transpose(1, 2).reshape(40, 3)
    assert torch.equal(whole.values, pixels[whole.places])


def test_values_of_whole_images_are_in_order() -> None:
    values = torch.randn(6, 4)
    found = of_images(values)
    assert found.values is values and torch.equal(found.of(values[..., None, None]), values)
