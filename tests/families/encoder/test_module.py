"""The encoder against transformers' own models, and the algebra of its fixed projections."""

import pytest
import torch
from families.encoder.sample import padded_ids, tiny_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.families.base import list_sites, ranks_of
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.families.encoder.checkpoints import from_transformers
from rmtkd_edge.families.encoder.fold import fold, unfold
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import MODEL_TYPES, EncoderSpec, LayerSpec


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_same_logits_as_transformers(kind):
    model = tiny_classifier(kind)
    ids, mask = padded_ids()
    ours = from_transformers(model).eval()(ids, mask)
    theirs = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["swish", "gelu_python", "gelu_fast", "gelu_accurate", "quick_gelu"])
def test_activations_under_their_other_names(name):
    model = tiny_classifier("bert", hidden_act=name)
    ids, mask = padded_ids()
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(from_transformers(model).eval()(ids, mask), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_parameter_count_is_the_modules(kind):
    encoder = from_transformers(tiny_classifier(kind))
    assert encoder.spec.count_parameters() == sum(p.numel() for p in encoder.parameters())


def test_a_word_table_of_its_own_width_is_counted_and_dropped_where_it_is_no_narrower():
    spec = EncoderSpec("bert", 30, 16, 2, 10, (LayerSpec(2, 4, 5, 7, 0.4),), 8, ("a", "b"))
    thin = spec.with_ranks({"embedding": 4})
    assert thin.count_parameters() == sum(p.numel() for p in Encoder(thin).parameters())
    assert spec.count_parameters() - thin.count_parameters() == 30 * 10 - 30 * 4 - (4 + 1) * 10
    assert ranks_of(thin)["embedding"] == 4 and "embedding" not in ranks_of(spec)
    assert thin.with_ranks({"stream": 4}).embedding_rank is None
    assert spec.with_ranks({"embedding": 10}).embedding_rank is None


def random_projections(spec: EncoderSpec, ranks: dict[str, int]) -> dict[str, torch.Tensor]:
    found = {}
    for site in list_sites(spec):
        k = ranks[site.name]
        blocks = [torch.linalg.qr(torch.randn(site.width, k, dtype=torch.float64))[0].T for _ in range(site.heads)]
        found[site.name] = torch.block_diag(*blocks)
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_fold_and_unfold_are_exact(seed):
    torch.manual_seed(seed)
    embedding = None if seed % 2 else 6
    layers = (LayerSpec(2, 4, 5, 7, 0.4), LayerSpec(3, 3, 2, 9, 0.5))
    spec = EncoderSpec("bert", 30, 16, 2, 10, layers, 8, ("a", "b"), embedding_size=embedding, dropout=0.0)
    narrow = spec.with_ranks({s.name: int(torch.randint(1, s.width + 1, ())) for s in list_sites(spec)})
    folded = Encoder(narrow).double().eval()
    for p in folded.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ranks = ranks_of(narrow)  # a word table as wide as the rest has no width of its own
    wide = unfold(folded, {k: p for k, p in random_projections(spec, {"embedding": 1, **ranks}).items() if k in ranks})
    ids, mask = torch.randint(0, 30, (4, 6)), torch.ones(4, 6, dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(wide(ids, mask), folded(ids, mask), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fold(wide)(ids, mask), wide(ids, mask), rtol=1e-9, atol=1e-9)
    assert ranks_of(fold(wide).spec) == ranks
    again = Encoder(EncoderSpec.from_dict(wide.spec.to_dict())).double()
    again.load_state_dict(wide.state_dict())
    assert set(FAMILY.projections(again)) == set(ranks)
