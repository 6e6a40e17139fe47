"""Where a vision transformer is looked at: which tokens, at which depths, and what the spectra are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families.vit.sample import images, ours
from torch import Tensor

from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.families.base import AnalyseOptions, list_sites
from rmtkd_edge.families.vit import FAMILY
from rmtkd_edge.families.vit.analyse import Tokens

ROWS = 24


def batches(size: int) -> list[dict[str, Tensor]]:
    parts = zip(images(ROWS).split(size), torch.arange(ROWS).split(size), strict=True)
    return [{"pixel_values": x, "index": index} for x, index in parts]


def options(**analyse: Any) -> AnalyseOptions:
    return AnalyseOptions(Analyse(**analyse), True, 0, lambda outputs, batch: outputs[:, 0].sum())


def test_the_class_token_is_among_the_sampled_ones_where_it_is_classified() -> None:
    index = np.arange(ROWS)
    places = Tokens(ours(), options(tokens_per_sequence=3))._places(index)
    assert places.shape == (ROWS, 3) and (places[:, 0] == 0).all() and (places[:, 1:] > 0).all()
    assert len(np.unique(places[:, 1:])) > 8  # the others are drawn anew for every image
    assert (Tokens(ours(), options(sample="image"))._places(index) == [[0]]).all()
    assert len(np.unique(Tokens(ours(pool="mean", tokens=0), options())._places(index))) > 8
    assert Tokens(ours(), options(tokens_per_sequence=99))._places(index).shape == (ROWS, 17)


def test_the_stream_is_seen_as_its_readers_see_it_at_every_depth() -> None:
    model = ours()
    (site,) = (site for site in list_sites(model.spec) if site.kind == "stream")
    (spectrum,) = FAMILY.analyse(model, [site], lambda: batches(ROWS), None, options(tokens_per_sequence=17))
    seen = spectrum.eigenvalues
    assert spectrum.n == ROWS * 17 and seen.shape == (1, 24) and seen[0, -1] < 1e-9  # a norm takes off the mean
    assert seen.sum() == pytest.approx(24, rel=1e-3)  # and leaves the same length, whatever the depth


@pytest.mark.parametrize("kind", ["stream", "qk", "value", "ffn"])
def test_spectra_do_not_depend_on_how_rows_are_batched(kind: str) -> None:
    model = ours()
    sites = list_sites(model.spec, [kind])
    whole, parted = (
        FAMILY.analyse(model, sites, lambda: batches(size), lambda: batches(size), options()) for size in (ROWS, 5)
    )
    for a, b in zip(whole, parted, strict=True):
        assert a.eigenvalues.shape == (a.site.heads, a.site.width) and a.n == b.n == 2 * ROWS
        np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-4, atol=1e-6)
        assert (a.activated is not None) == (kind == "ffn")
