"""The fold proof: it holds for what `fold` makes, and names the site where it does not."""

import pytest
import torch
from export.export_sample import KINDS, UNEVEN, make_batch, make_encoder, make_spec, project

from rmtkd_edge.errors import DataError, Finding
from rmtkd_edge.export.fold_proof import check_fold, fold_with_proof
from rmtkd_edge.families.encoder.module import fold
from rmtkd_edge.families.encoder.spec import with_ranks


def projected(kind="bert"):
    return project(make_encoder(with_ranks(make_spec(kind), UNEVEN)), make_spec(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_fold_is_proved_on_every_row(kind):
    encoder = projected(kind)
    folded, proof = fold_with_proof(encoder, [make_batch(), make_batch(2, 5, seed=1)])
    assert proof.holds and proof.rows == 6
    assert proof.float64 < 1e-12 and proof.float32 < 1e-5
    assert not folded.spec.raw and encoder.spec.raw


@pytest.mark.parametrize(
    ("part", "site"),
    [
        ("layers.0.query", "layer.0.qk"),
        ("layers.0.value", "layer.0.value"),
        ("layers.0.up", "layer.0.ffn"),
        ("layers.1.down", "stream"),
        ("head", "head"),
        ("embeddings.word", "stream"),
    ],
)
def test_a_wrong_fold_names_its_site(part, site):
    encoder = projected()
    folded = fold(encoder).eval()
    with torch.no_grad():
        folded.get_submodule(part).weight.mul_(1.5)
    with pytest.raises(Finding) as caught:
        check_fold(encoder, folded, [make_batch()])
    first = next(row for row in caught.value.table if row[3] == "FIRST")
    assert first[1] == site and site in caught.value.message
    before = caught.value.table[1 : caught.value.table.index(first)]
    assert all(row[3] == "ok" for row in before)


def test_a_projection_that_is_not_finite_is_a_finding():
    encoder = projected()
    encoder.layers[0].up.projection.fill_(float("nan"))
    with pytest.raises(Finding, match=r"layer\.0\.ffn"):
        fold_with_proof(encoder, [make_batch()])


def test_no_rows_prove_nothing():
    with pytest.raises(DataError):
        fold_with_proof(projected(), [])
