"""Analysis: the short way to an FFN's spectrum is the long way's, and draws belong to rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.config.recipe import Analyse
from rmtkd_edge.errors import DataError
from rmtkd_edge.families.base import AnalyseOptions, list_sites
from rmtkd_edge.families.encoder.analyse import analyse_sites
from rmtkd_edge.families.encoder.linear_moments import LinearMoments
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.families.token_sampling import by_depth, pick_tokens, stream_depth
from rmtkd_edge.spectral import weighted_spectrum
from rmtkd_edge.spectral.seeded import row_contrasts, row_uniform


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 1.0), st.booleans())
def test_the_spectrum_through_the_input_is_the_outputs_own(seed, blend, centred):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    weight, bias, x, g = draw(23, 6), draw(23), draw(60, 6) + 0.5, draw(40, 23) * torch.linspace(0.1, 2, 23)
    short = LinearMoments(weight, bias)
    for part in x.split(17):
        short.add(part)
    for part in g.split(9):
        short.add_gradient(part)
    values, rows = short.spectrum(blend, centred)
    inner = x @ weight.T + bias
    inner = inner - inner.mean(0) if centred else inner
    wanted, directions = weighted_spectrum(inner.T @ inner / len(x), g.T @ g / len(g), blend)
    torch.testing.assert_close(values, wanted.clamp_min(0), rtol=1e-7, atol=1e-9 * float(wanted[0]))
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), rtol=0, atol=1e-9)
    for k in (1, 3, len(rows)):
        torch.testing.assert_close(rows[:k].T @ rows[:k], directions[:k].T @ directions[:k], rtol=0, atol=1e-5)


def test_a_dead_layer_is_named():
    short = LinearMoments(torch.zeros(5, 2), torch.zeros(5))
    short.add(torch.randn(10, 2))
    with pytest.raises(DataError, match="zero on the whole"):
        short.spectrum(0.5, False)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4), st.integers(1, 3))
def test_draws_do_not_depend_on_how_rows_are_shared_out(seed, count, world, tokens):
    index = np.arange(7, 7 + count)
    valid = row_uniform(1, index, 9) < 0.7
    valid[:, 0] = True
    options = Analyse(tokens_per_sequence=tokens)
    whole = pick_tokens(valid, index, 5, options, seed)
    assert valid[whole.rows, whole.columns].all() and (whole.depths < 5).all()
    assert np.bincount(whole.rows).tolist() == np.minimum(valid.sum(1), tokens).tolist()
    for rank in range(world):
        part = pick_tokens(valid[rank::world], index[rank::world], 5, options, seed)
        mine = np.isin(whole.sequences, index[rank::world])
        for drawn, expected in ((part.columns, whole.columns), (part.depths, whole.depths)):
            assert drawn.tolist() == expected[mine].tolist()
        assert part.sequences.tolist() == whole.sequences[mine].tolist()


def test_uniforms_are_uniform():
    drawn = row_uniform(3, np.arange(4000), 5)
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(drawn.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(drawn.T)[0, 1:]).max() < 0.06


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_contrasts_are_random_directions_among_those_that_sum_to_zero(seed, columns):
    drawn = row_contrasts(seed, np.arange(4000), columns)
    np.testing.assert_allclose(drawn.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.square(drawn).sum(1), columns - 1)  # none is lost
    wanted = np.eye(columns) - 1 / columns
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), wanted, atol=0.12)


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(0, 12), st.booleans())
def test_every_sequence_runs_once_and_as_far_as_it_is_looked_at(seed, count, deepest, stream):
    layers = tuple(LayerSpec(1, 2, 2, 4, 0.5) for _ in range(12))
    sites = list_sites(EncoderSpec("bert", 40, 16, 2, 8, layers, 8, ("a", "b")))
    chosen = [s for s in sites if (s.layer is not None and s.layer < deepest) or (s.kind == "stream" and stream)]
    index = torch.arange(5, 5 + count)
    needed = np.full(count, deepest)
    if stream:
        needed = np.maximum(needed, stream_depth(index.numpy(), 13, seed))
    seen = []
    for part, run in by_depth({"index": index, "labels": index * 2}, chosen, 13, seed):
        assert torch.equal(part["labels"], part["index"] * 2)
        assert run is not None and run == max(needed[i - 5] for i in part["index"].tolist())
        seen += part["index"].tolist()
    assert sorted(seen) == index.tolist()
    whole = by_depth({"index": index}, sites, 13, seed)  # the pooler needs all of the model
    assert [(len(part["index"]), run) for part, run in whole] == [(count, None)]


@pytest.mark.parametrize("weighting", ["effect", "none"])
def test_a_site_alone_has_the_spectrum_it_has_among_all(weighting):
    # Alone, no more layers are run than its activations need.
    torch.manual_seed(0)
    layers = (LayerSpec(2, 4, 4, 16, 0.5), LayerSpec(2, 4, 4, 16, 0.5), LayerSpec(2, 4, 4, 16, 0.5))
    encoder = Encoder(EncoderSpec("bert", 40, 16, 2, 8, layers, 8, ("a", "b"), embedding_rank=6)).eval().double()
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.4)
    ids = torch.randint(5, 40, (70, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "index": torch.arange(70)}
    probe = lambda out, batch: (out * torch.from_numpy(row_contrasts(2, batch["index"].numpy(), 2))).sum()
    options = AnalyseOptions(Analyse(weighting=weighting), False, 0, probe)

    def spectra(sites):
        return analyse_sites(encoder, sites, lambda: [batch], lambda: [batch], options)

    sites = list_sites(encoder.spec)
    assert {"embedding", "stream", "pooler", "qk", "value", "ffn"} <= {site.kind for site in sites}
    for together in spectra(sites):
        (alone,) = spectra([together.site])
        np.testing.assert_allclose(alone.eigenvalues, together.eigenvalues, rtol=1e-9, atol=1e-15)
