"""What a recipe may start from: checkpoints of transformers and of our own, whole or not, with labels in any order."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from families.encoder.sample import UNEVEN, make_batch, make_encoder, make_spec, padded_ids, project, tiny_classifier
from report.report_sample import exported

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.export.bundle import write_folder, write_record
from rmtkd_edge.export.fold_proof import run_torch
from rmtkd_edge.families.encoder.checkpoints import from_transformers
from rmtkd_edge.families.encoder.config import standardise
from rmtkd_edge.families.encoder.sources import load
from rmtkd_edge.families.encoder.spec import MODEL_TYPES
from rmtkd_edge.families.store import save_folder

LABELS = ["a", "b", "c"]


class Vocabulary(list):
    """Stands in for a tokenizer of these ids."""

    pad_token_id = 1

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in self}


def build(source: str, labels: list[str], tokenizer: Vocabulary | None = None, kind: str = "text-classification"):
    task = SimpleNamespace(max_length=18, kind=kind)
    recipe = SimpleNamespace(seed=0, model=SimpleNamespace(source=source, shape={}), task=task)
    return load(recipe, labels, tokenizer or Vocabulary(range(60)))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_saved_classifier_is_loaded_as_trained(kind, tmp_path):
    tiny_classifier(kind).save_pretrained(tmp_path)
    encoder, trained = build(str(tmp_path), LABELS)
    assert trained and encoder.spec.model_type == kind


def test_an_encoder_without_a_classifier_is_loaded_as_untrained(tmp_path):
    tiny_classifier("bert").bert.save_pretrained(tmp_path)
    assert build(str(tmp_path), LABELS)[1] is False


def test_a_checkpoint_that_lacks_encoder_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_classifier("bert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights.*layer\.1\.output"):
        build(str(tmp_path), LABELS)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    tiny_classifier("bert").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot load"):
        build(str(tmp_path), LABELS)


def test_other_labels_than_the_checkpoint_are_refused(tmp_path):
    tiny_classifier("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="3 labels, the data have 2"):
        build(str(tmp_path), ["a", "b"])


def test_labels_in_another_order_are_brought_into_the_datas(tmp_path):
    model = tiny_classifier("bert")
    model.config.id2label, model.config.label2id = {0: "c", 1: "A", 2: "b"}, {"c": 0, "A": 1, "b": 2}
    model.save_pretrained(tmp_path)
    encoder, trained = build(str(tmp_path), ["a", "b", "c"])
    with torch.no_grad():
        ids, mask = padded_ids()
        wanted = model(input_ids=ids, attention_mask=mask).logits[:, [1, 2, 0]]
        found = encoder.eval()(ids, mask)
    assert trained
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_other_label_names_are_refused(tmp_path):
    model = tiny_classifier("bert")
    model.config.id2label, model.config.label2id = {0: "x", 1: "y", 2: "z"}, {"x": 0, "y": 1, "z": 2}
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="names the labels"):
        build(str(tmp_path), ["a", "b", "c"])


def test_more_tokens_than_positions_or_embeddings_are_refused(tmp_path):
    tiny_classifier("bert").save_pretrained(tmp_path)
    recipe = SimpleNamespace(
        seed=0,
        model=SimpleNamespace(source=str(tmp_path), shape={}),
        task=SimpleNamespace(max_length=21, kind="text-classification"),
    )
    with pytest.raises(DataError, match="20 positions"):
        load(recipe, LABELS, Vocabulary(range(60)))
    recipe.task.max_length = 18
    with pytest.raises(DataError, match="61 tokens"):
        load(recipe, LABELS, Vocabulary(range(61)))


def test_a_tokenizer_whose_ids_have_gaps_needs_as_many_embeddings_as_its_largest_id(tmp_path):
    tiny_classifier("bert").save_pretrained(tmp_path)
    with pytest.raises(DataError, match="61 tokens"):
        build(str(tmp_path), LABELS, Vocabulary([*range(50), 60]))
    scratch = SimpleNamespace(source="scratch", shape={"layers": 1, "width": 8, "heads": 1, "ffn": 8})
    recipe = SimpleNamespace(seed=0, model=scratch, task=SimpleNamespace(max_length=18, kind="text-classification"))
    assert load(recipe, LABELS, Vocabulary([*range(50), 60]))[0].spec.vocab == 61


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_model_type_starts_from_random_weights(kind):
    shape = {"model_type": kind, "layers": 1, "width": 8, "heads": 1, "ffn": 8, "max_positions": 18}
    model = SimpleNamespace(source="scratch", shape=shape)
    recipe = SimpleNamespace(seed=0, model=model, task=SimpleNamespace(max_length=18, kind="text-classification"))
    encoder, trained = load(recipe, LABELS, Vocabulary(range(60)))
    assert not trained and encoder.spec.model_type == kind and encoder.spec.max_length == 18


def changed_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def named(model, names):
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return model


@pytest.mark.parametrize(
    ("theirs", "ours", "place"),
    [
        (["us", "US", "x"], ["US", "us", "x"], [1, 0, 2]),  # folding the case would leave them as they are
        (["us", "US", "x"], ["us", "US", "x"], [0, 1, 2]),
        (["LABEL_1", "LABEL_0", "LABEL_2"], ["LABEL_0", "LABEL_1", "LABEL_2"], [1, 0, 2]),
        (["Yes", "No", "x"], ["no", "X", "yes"], [1, 2, 0]),
    ],
)
def test_labels_are_matched_as_they_are_before_their_case_is_folded(tmp_path, theirs, ours, place):
    model = named(tiny_classifier("bert"), theirs)
    model.save_pretrained(tmp_path)
    encoder, _ = build(str(tmp_path), ours)
    ids, mask = padded_ids()
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits[:, place]
        torch.testing.assert_close(encoder.eval()(ids, mask), wanted, rtol=1e-5, atol=1e-6)
    assert encoder.spec.labels == tuple(ours)


def test_labels_that_folding_would_confuse_are_refused(tmp_path):
    named(tiny_classifier("bert"), ["us", "US", "x"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="names the labels us, US, x; the data us, uS, x"):
        build(str(tmp_path), ["us", "uS", "x"])


@pytest.mark.parametrize(
    ("problem", "kind"), [("multi_label_classification", "multi-label"), ("regression", "regression")]
)
def test_checkpoints_for_other_problems_are_refused_and_their_task_is_named(tmp_path, problem, kind):
    tiny_classifier("bert", problem_type=problem).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=problem) as caught:
        build(str(tmp_path), LABELS)
    assert f"task.kind = {kind} " in caught.value.hint
    with pytest.raises(UserError, match=problem):
        from_transformers(tiny_classifier("bert", problem_type=problem))


def test_a_checkpoint_of_the_task_s_own_problem_is_loaded_and_another_is_not(tmp_path):
    named(tiny_classifier("bert", problem_type="multi_label_classification"), LABELS).save_pretrained(tmp_path)
    encoder, trained = build(str(tmp_path), LABELS[::-1], kind="multi-label")
    assert trained and encoder.spec.labels == tuple(LABELS[::-1])
    with pytest.raises(UserError, match="the task needs regression") as caught:
        build(str(tmp_path), ["score"], kind="regression")
    assert "multi-label" in caught.value.hint


def test_a_single_score_is_a_regression_and_no_classifier(tmp_path):
    tiny_classifier("bert", num_labels=1).save_pretrained(tmp_path / "one")
    with pytest.raises(UserError, match="gives one score") as caught:
        build(str(tmp_path / "one"), LABELS)
    assert "regression" in caught.value.hint
    encoder, trained = build(str(tmp_path / "one"), ["score"], kind="regression")
    assert trained and encoder.spec.labels == ("score",)
    tiny_classifier("bert").save_pretrained(tmp_path / "three")
    with pytest.raises(UserError, match="classifies 3 labels, the data have one score a row") as caught:
        build(str(tmp_path / "three"), ["score"], kind="regression")
    assert "multi-label" in caught.value.hint


def test_an_exported_folder_of_another_task_is_refused(tmp_path):
    folded = standardise(make_encoder(replace(make_spec(), labels=tuple(LABELS))))
    write_folder(tmp_path, folded, "toy", {}, problem_type="multi_label_classification")
    write_record(tmp_path, exported(True, {}))
    assert build(str(tmp_path), LABELS, kind="multi-label")[1]
    with pytest.raises(UserError, match="multi_label_classification"):
        build(str(tmp_path), LABELS)


def test_label_numbers_with_gaps_are_refused(tmp_path):
    tiny_classifier("bert").save_pretrained(tmp_path)
    changed_config(tmp_path, id2label={"0": "a", "1": "b", "5": "c"}, label2id={"a": 0, "b": 1, "c": 5})
    with pytest.raises(UserError, match="numbers its labels 0, 1, 5"):
        build(str(tmp_path), LABELS)


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("there", [None, ["AnyModel"]])
def test_the_weights_say_whether_a_classifier_is_trained(tmp_path, kind, there):
    model = tiny_classifier(kind)
    model.save_pretrained(tmp_path)
    changed_config(tmp_path, architectures=there)
    encoder, trained = build(str(tmp_path), LABELS)
    assert trained
    torch.testing.assert_close(encoder.classifier.weight, from_transformers(model).classifier.weight)


def test_a_head_for_another_task_is_not_taken_for_a_classifier(tmp_path):
    tiny_classifier("bert", num_labels=1).save_pretrained(tmp_path)
    changed_config(tmp_path, architectures=["BertForMultipleChoice"])
    assert build(str(tmp_path), LABELS)[1] is False


def test_pruned_heads_are_refused_before_their_weights_are_read(tmp_path):
    tiny_classifier("bert").save_pretrained(tmp_path)
    changed_config(tmp_path, pruned_heads={"1": [0]})
    with pytest.raises(UserError, match="heads were pruned from layers 1"):
        build(str(tmp_path), LABELS)


def test_pickled_weights_are_refused_with_how_to_convert_them(tmp_path):
    model = tiny_classifier("bert")
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled \.bin files") as caught:
        build(str(tmp_path), LABELS)
    assert "save_pretrained" in caught.value.hint


def test_an_adapter_is_refused_with_how_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="PEFT adapter") as caught:
        build(str(tmp_path), LABELS)
    assert "merge_and_unload" in caught.value.hint


def test_a_sentence_transformers_folder_is_its_encoder(tmp_path):
    inner = tmp_path / "0_Transformer"
    tiny_classifier("bert").bert.save_pretrained(inner)
    kind = "sentence_transformers.models.Transformer"
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": inner.name, "type": kind}]))
    encoder, trained = build(str(tmp_path), LABELS)
    assert not trained and encoder.spec.width == 16


def test_a_run_directory_names_the_models_in_it(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is a run directory") as caught:
        build(str(tmp_path), LABELS)
    assert f"model.source={tmp_path}/compress/teacher" in caught.value.hint


def test_a_model_of_a_run_is_loaded_folded_with_the_datas_label_order(tmp_path):
    folded = make_encoder(replace(make_spec().with_ranks(UNEVEN), labels=("c", "a", "b")))
    save_folder(tmp_path, project(folded, make_spec()))
    encoder, trained = build(str(tmp_path), LABELS)
    batch = make_batch()
    assert trained and not encoder.spec.raw
    found, wanted = run_torch(encoder, batch), run_torch(folded, batch)[:, [1, 2, 0]]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [{}, UNEVEN])
def test_an_exported_folder_is_loaded_whatever_its_widths(tmp_path, ranks):
    folded = standardise(make_encoder(replace(make_spec().with_ranks(ranks), labels=tuple(LABELS))))
    write_folder(tmp_path, folded, "toy", {})
    record = write_record(tmp_path, exported(True, {}))
    encoder, trained = build(str(tmp_path), LABELS)
    assert trained
    torch.testing.assert_close(run_torch(encoder, make_batch()), run_torch(folded, make_batch()))
    (tmp_path / record.weights).write_bytes(b"altered")
    with pytest.raises(UserError, match="was altered"):
        build(str(tmp_path), LABELS)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_class_that_computes_something_else_is_refused(kind):
    model = tiny_classifier(kind)
    assert from_transformers(model).spec.model_type == kind

    class Scaled(type(model)):
        def forward(self, *inputs, **named):
            found = super().forward(*inputs, **named)
            found.logits = found.logits * 1.001
            return found

    model.__class__ = Scaled
    with pytest.raises(UserError, match=r"the Scaled computes something else than a plain encoder.*logits differ by"):
        from_transformers(model)


def test_half_precision_and_training_mode_do_not_look_like_something_else():
    model = tiny_classifier("bert").half().train()
    assert from_transformers(model).spec.model_type == "bert"
    assert model.training and model.dtype == torch.float16
