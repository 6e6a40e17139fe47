"""The fold proof: it names the site where it does not."""

import pytest
import torch
from export.export_sample import sample_of
from families.encoder.sample import make_batch, make_model

from rmtkd_edge.errors import DataError, Finding
from rmtkd_edge.export.fold_proof import check_fold, fold_with_proof
from rmtkd_edge.families.base import family_of


@pytest.mark.parametrize(
    ("part", "site"),
    [
        ("layers.0.query", "layer.0.qk"),
        ("layers.0.value", "layer.0.value"),
        ("layers.0.up", "layer.0.ffn"),
        ("layers.1.down", "stream"),
        ("pooler", "pooler"),
        ("embeddings.word", "stream"),
    ],
)
def test_a_wrong_fold_of_an_encoder_names_its_site(part, site):
    encoder = make_model()
    assert_named(encoder, family_of(encoder).fold(encoder).eval(), part, site, make_batch())


@pytest.mark.parametrize(
    ("part", "site"),
    [
        ("stages.1.0.convs.0.conv", "layer.2.block.0.conv1.factor"),
        ("stages.1.1.convs.1.norm", "layer.2.stream"),
    ],
)
def test_a_wrong_fold_of_a_resnet_names_its_site(part, site):
    sample = sample_of("resnet")
    net = sample.make_model(0)
    assert_named(net, family_of(net).fold(net).eval(), part, site, sample.make_batches(net, 1)[0])


def assert_named(model, folded, part, site, batch) -> None:
    with torch.no_grad():
        folded.get_submodule(part).weight.mul_(1.5)
    with pytest.raises(Finding) as caught:
        check_fold(model, folded, [batch])
    first = next(row for row in caught.value.table if row[3] == "FIRST")
    assert first[1] == site and site in caught.value.message
    before = caught.value.table[1 : caught.value.table.index(first)]
    assert all(row[3] == "ok" for row in before)


def test_a_projection_that_is_not_finite_is_a_finding():
    encoder = make_model()
    encoder.layers[0].up.projection.fill_(float("nan"))
    with pytest.raises(Finding, match=r"layer\.0\.ffn"):
        fold_with_proof(encoder, [make_batch()])


def test_no_rows_prove_nothing():
    with pytest.raises(DataError):
        fold_with_proof(make_model(), [])
