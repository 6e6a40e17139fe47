"""From a folder of transformers' to the family, and back: what is loaded, and what is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families.modernbert.sample import LABELS, make_model, padded_ids, tiny_classifier
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError, UserError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.modernbert.config import fits_transformers
from rmtkd_edge.families.modernbert.module import ModernBert
from rmtkd_edge.families.modernbert.sources import CLASSIFIERS
from rmtkd_edge.families.store import save_folder

FAMILY = find_family("modernbert")


def load(source: Path, problem: str | None = None) -> tuple[ModernBert, bool]:
    return CLASSIFIERS.pretrained(str(source), LABELS, problem)


def saved(folder: Path, **options: Any) -> Any:
    model = tiny_classifier(id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)})
    model.save_pretrained(folder, **options)
    return model


def same(ours: ModernBert, theirs: Any, tolerance: float = 1e-5) -> None:
    ids, mask = padded_ids(5, 30)
    with torch.no_grad():
        wanted = theirs.float()(input_ids=ids, attention_mask=mask).logits
        assert (ours.eval()(ids, mask) - wanted).abs().max() < tolerance * wanted.abs().max()


def test_a_sharded_checkpoint_is_loaded(tmp_path: Path) -> None:
    theirs = saved(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours, trained = load(tmp_path)
    assert trained and ours.spec.labels == LABELS
    same(ours, theirs)


def test_a_bf16_checkpoint_is_loaded(tmp_path: Path) -> None:
    theirs = tiny_classifier().bfloat16()
    theirs.save_pretrained(tmp_path)
    ours, trained = load(tmp_path)
    assert trained and next(ours.parameters()).dtype == torch.float32
    same(ours, theirs, 1e-4)  # the cast has rounded their rotary frequencies


def test_a_module_that_was_cast_is_not_taken_for_another(tmp_path: Path) -> None:
    theirs = tiny_classifier(local_attention=64, max_position_embeddings=200, hidden_size=64)
    assert theirs.half().train() is theirs  # rounds rotary frequencies, by far more than the tolerance at position 80
    assert CLASSIFIERS.from_transformers(theirs).spec.width == 64 and theirs.training


@pytest.mark.parametrize("inner", ["base", "masked"])
def test_a_checkpoint_without_a_classifier_is_loaded_as_untrained(inner: str, tmp_path: Path) -> None:
    import transformers

    theirs = tiny_classifier()
    other = theirs.model if inner == "base" else transformers.ModernBertForMaskedLM(theirs.config)
    other.save_pretrained(tmp_path)
    ours, trained = load(tmp_path)
    words = other.get_input_embeddings().weight
    assert not trained and torch.equal(ours.embeddings.word.weight, words)


def test_labels_are_brought_into_the_datas_order(tmp_path: Path) -> None:
    theirs = saved(tmp_path)
    ours, _ = CLASSIFIERS.pretrained(str(tmp_path), ("odd", "bad", "good"), None)
    ids, mask = padded_ids(3, 12)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, attention_mask=mask).logits[:, [2, 0, 1]]
        torch.testing.assert_close(ours.eval()(ids, mask), wanted)


def test_what_is_not_computed_is_refused(tmp_path: Path) -> None:
    yarn = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UserError, match="rotary positions of type linear"):
        CLASSIFIERS.from_transformers(tiny_classifier(rope_parameters={"full_attention": yarn}))
    with pytest.raises(UserError, match="the activation `mish` is not known"):
        CLASSIFIERS.from_transformers(tiny_classifier(hidden_activation="mish"))
    with pytest.raises(UserError, match="problem_type is multi_label_classification"):
        CLASSIFIERS.from_transformers(tiny_classifier(problem_type="multi_label_classification"))


def test_a_score_is_read_where_the_task_is_a_regression() -> None:
    theirs = tiny_classifier(num_labels=1, problem_type="regression")
    ours = CLASSIFIERS.from_transformers(theirs, ("score",), "regression")
    same(ours, theirs)
    assert ours.classifier.weight.shape == (1, 16)


def test_a_class_that_computes_something_else_is_refused() -> None:
    model = tiny_classifier()
    model.config.local_attention = 6  # its masks follow the config, and so does the shape: still the same
    assert CLASSIFIERS.from_transformers(model).spec.window == 3

    class Scaled(type(model)):  # type: ignore[misc]
        def forward(self, *inputs: Any, **named: Any) -> Any:
            found = super().forward(*inputs, **named)
            found.logits = found.logits * 1.001
            return found

    model.__class__ = Scaled
    with pytest.raises(UserError, match="the Scaled computes something else than a plain ModernBERT"):
        CLASSIFIERS.from_transformers(model)


def test_another_family_names_its_own(tmp_path: Path) -> None:
    save_folder(tmp_path / "ours", make_model())
    again, trained = load(tmp_path / "ours")
    assert trained and again.spec == make_model().spec
    recipe = {
        "title": "t",
        "model": {"source": str(tmp_path / "ours"), "tokenizer": "x"},
        "task": {"name": "t", "text": ["a"]},
    }
    saved(tmp_path / "theirs")
    for folder, what in (("ours", "holds no encoder"), ("theirs", "is no encoder")):
        recipe["model"] = {"source": str(tmp_path / folder), "tokenizer": "x"}
        with pytest.raises(UserError, match=what) as caught:
            find_family("encoder").load(parse_recipe(recipe, "t"), LABELS, None)
        assert "model.family = modernbert" in str(caught.value.hint)
    recipe |= {"compress": {"sites": ["qk"]}, "model": {"family": "modernbert", "source": "scratch", "tokenizer": "x"}}
    with pytest.raises(RecipeError, match=r"no kind `qk`.*rotary positions"):
        parse_recipe(recipe, "t")


def test_transformers_loads_what_fits_and_fails_on_what_does_not(tmp_path: Path) -> None:
    whole, ids = make_model(classifier_pooling="mean"), padded_ids(4, 30)
    ffn = {f"layer.{i}.ffn": 9 for i in range(4)}
    even, uneven = (
        FAMILY.initialise(FAMILY.build(whole.spec.with_ranks(ranks)), 0).eval() for ranks in (ffn, {"stream": 10})
    )
    shorter = FAMILY.shortened(whole, [0, 2])
    for name, model in (("whole", whole), ("even", even), ("shorter", shorter)):
        assert fits_transformers(model.spec)
        write(model, tmp_path / name)
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            found = theirs(input_ids=ids[0], attention_mask=ids[1]).logits
            torch.testing.assert_close(found, model(*ids), rtol=1e-4, atol=1e-5)
    assert not fits_transformers(FAMILY.shorter(whole.spec, [1, 2])) and not fits_transformers(uneven.spec)
    write(uneven, tmp_path / "uneven")
    with pytest.raises((RuntimeError, ValueError)):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "uneven")


def test_transformers_4_reads_its_own_names_of_what_the_layers_are() -> None:
    spec = make_model(rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 30.0}}).spec
    config = FAMILY.config(spec, "toy")
    assert (config["global_attn_every_n_layers"], config["local_rope_theta"], config["local_attention"]) == (3, 30.0, 8)
    assert "global_attn_every_n_layers" not in FAMILY.config(FAMILY.shorter(spec, [1, 2, 3]), "toy")
    assert FAMILY.config(FAMILY.shorter(spec, [0, 2]), "toy")["global_attn_every_n_layers"] == 2


def write(model: ModernBert, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FAMILY.config(model.spec, "toy")))
    save_file(FAMILY.tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
