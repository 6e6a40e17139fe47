"""The encoder against transformers' own models, and the algebra of its fixed projections."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.families.base import list_sites, ranks_of
from rmtkd_edge.families.encoder import FAMILY
from rmtkd_edge.families.encoder.fold import fold, unfold
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.sources import from_transformers, load
from rmtkd_edge.families.encoder.spec import MODEL_TYPES, EncoderSpec, LayerSpec


def tiny(kind: str):
    torch.manual_seed(0)
    common = dict(vocab_size=60, num_labels=3, pad_token_id=1)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=20, **common
        )
    else:
        name = {"bert": "BertConfig", "roberta": "RobertaConfig", "electra": "ElectraConfig"}[kind]
        extra = {"embedding_size": 12} if kind == "electra" else {}
        config = getattr(transformers, name)(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=20,
            **extra,
            **common,
        )
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for p in model.parameters():  # make norms, biases and tables matter
        p.data.add_(0.1 * torch.randn_like(p))
    return model.eval()


def inputs(batch: int = 3, length: int = 9):
    ids = torch.randint(2, 60, (batch, length))
    mask = torch.ones_like(ids)
    for row in range(batch):
        ids[row, length - row :] = 1
        mask[row, length - row :] = 0
    return ids, mask


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_same_logits_as_transformers(kind):
    model = tiny(kind)
    ids, mask = inputs()
    ours = from_transformers(model).eval()(ids, mask)
    theirs = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_parameter_count_is_the_modules(kind):
    encoder = from_transformers(tiny(kind))
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


LABELS = ["a", "b", "c"]


class Vocabulary(list):
    """Stands in for a tokenizer of 60 words."""

    pad_token_id = 1


def build(source: str, labels: list[str]):
    recipe = SimpleNamespace(
        seed=0, model=SimpleNamespace(source=source, shape={}), task=SimpleNamespace(max_length=18)
    )
    return load(recipe, labels, Vocabulary(range(60)))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_saved_classifier_is_loaded_as_trained(kind, tmp_path):
    tiny(kind).save_pretrained(tmp_path)
    encoder, trained = build(str(tmp_path), LABELS)
    assert trained and encoder.spec.model_type == kind


def test_an_encoder_without_a_classifier_is_loaded_as_untrained(tmp_path):
    tiny("bert").bert.save_pretrained(tmp_path)
    assert build(str(tmp_path), LABELS)[1] is False


def test_a_checkpoint_that_lacks_encoder_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny("bert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights.*layer\.1\.output"):
        build(str(tmp_path), LABELS)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot load"):
        build(str(tmp_path), LABELS)


def test_other_labels_than_the_checkpoint_are_refused(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="3 labels, the data have 2"):
        build(str(tmp_path), ["a", "b"])


def test_labels_in_another_order_are_brought_into_the_datas(tmp_path):
    model = tiny("bert")
    model.config.id2label, model.config.label2id = {0: "c", 1: "A", 2: "b"}, {"c": 0, "A": 1, "b": 2}
    model.save_pretrained(tmp_path)
    encoder, trained = build(str(tmp_path), ["a", "b", "c"])
    with torch.no_grad():
        ids, mask = inputs()
        wanted = model(input_ids=ids, attention_mask=mask).logits[:, [1, 2, 0]]
        found = encoder.eval()(ids, mask)
    assert trained
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_other_label_names_are_refused(tmp_path):
    model = tiny("bert")
    model.config.id2label, model.config.label2id = {0: "x", 1: "y", 2: "z"}, {"x": 0, "y": 1, "z": 2}
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="names the labels"):
        build(str(tmp_path), ["a", "b", "c"])


def test_more_tokens_than_positions_or_embeddings_are_refused(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    recipe = SimpleNamespace(
        seed=0, model=SimpleNamespace(source=str(tmp_path), shape={}), task=SimpleNamespace(max_length=21)
    )
    with pytest.raises(DataError, match="20 positions"):
        load(recipe, LABELS, Vocabulary(range(60)))
    recipe.task.max_length = 18
    with pytest.raises(DataError, match="61 tokens"):
        load(recipe, LABELS, Vocabulary(range(61)))
