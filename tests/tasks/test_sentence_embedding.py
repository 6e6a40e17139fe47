"""Sentence embeddings: from lines of text to an exported folder; what judges them; which checkpoints they are of."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentences_sample import sentences
from torch.nn import functional as F

import rmtkd_edge
from rmtkd_edge.api.compress import CompressOptions, compress_run
from rmtkd_edge.api.export import ExportOptions, export_run
from rmtkd_edge.compress.learnt import baseline_value
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.teacher import ready_teacher
from rmtkd_edge.compress.vocabulary import fewer_tokens
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import DataError, RecipeError, UserError
from rmtkd_edge.families.encoder.checkpoints import pretrained
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks import embedding_metrics as metrics
from rmtkd_edge.tasks.base import JudgedByTeacher, find_task

TASK = find_task("sentence-embedding")
TEXTS = ["the film was great and warm", "a dull plot"]
MODULES = ("Transformer", "Pooling", "Normalize")


def write_embedder(
    folder: Path, tokenizer: Path, pooling: str = "mean_tokens", modules: tuple[str, ...] = MODULES
) -> None:
    """Write a small BERT as sentence-transformers does."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, initializer_range=0.3, **sizes))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 32, f"pooling_mode_{pooling}": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    write_embedder(folder, tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lines of train and validation, and a file of scored pairs next to it."""
    folder = tmp_path_factory.mktemp("sentences")
    for split, count in (("train", 300), ("validation", 60), ("test", 40)):
        lines = [text for text, _ in sentences(count, len(split))]
        (folder / f"{split}.txt").write_text("\n".join([*lines, "", "  "]), encoding="utf-8")
    pairs = [(a, b) for (a, _), (b, _) in zip(sentences(20, 3), sentences(20, 4), strict=True)]
    rows = [{"first": a, "second": b, "how": i % 5} for i, (a, b) in enumerate(pairs)]
    (folder.parent / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def settings(embedder: Path, **sections: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": {"source": str(embedder)},
        "task": {"name": "tiny", "kind": "sentence-embedding", "text": ["text"], "max_length": 24},
        "analyse": {"minimum_rows": 200, "weighting_rows": 64},
        "compress": {"sites_per_cycle": 20, "rounds": 1, "warm_start_tokens": 2500, "align": False, "minimum_rank": 2},
        "distil": {"alpha": 0.0, "steps": 20, "learning_rate": 2e-3, "evaluate_every": 10},
        "stop": {"target_reduction": 0.4, "max_drop": 0.9},
        "export": {"max_drop": 0.2},
    }
    return {name: {**found.get(name, {}), **sections.get(name, {})} for name in {*found, *sections}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, embedder: Path, data: Path) -> SimpleNamespace:
    """A run that is compressed and exported, with scored pairs."""
    import tomli_w

    folder = tmp_path_factory.mktemp("run")
    pairs = {"pairs": str(data.parent / "pairs.jsonl"), "pair_columns": ["first", "second", "how"]}
    known = settings(embedder)
    known["task"] |= pairs
    (folder / "recipe.toml").write_text(tomli_w.dumps(known))
    options = CompressOptions(recipe=str(folder / "recipe.toml"), out=folder / "run", data=data)
    record = compress_run(options, SilentReporter())
    exported = export_run(ExportOptions(run=folder / "run"))
    return SimpleNamespace(run=folder / "run", record=record, exported=exported)


def test_a_student_learns_from_its_teacher_and_keeps_the_width(made: SimpleNamespace) -> None:
    teacher, student = made.record.teacher, made.record.student
    assert not teacher.trained and teacher.test.values["cosine_similarity"] == pytest.approx(1)
    assert teacher.test.values["spearmanr"] == pytest.approx(1)
    assert set(student.test.values) == {*metrics.KNOWN} and made.record.reduction > 0.39
    (cycle,) = made.record.cycles
    assert cycle.after.value >= cycle.closed_form.value > 0.5
    # 40 rows of test and 10 of 20 pairs, of which validation has the others
    assert (student.test.rows, student.validation.rows) == (60, 80)
    Run.open(made.run).verify()
    student, original = (rmtkd_edge.load(made.run / name).predict(TEXTS) for name in ("export", "baseline"))
    assert student.outputs.shape == original.outputs.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(student.outputs, axis=1), 1, atol=1e-5)
    torch_outputs = rmtkd_edge.load(made.run, backend="torch").predict(TEXTS).outputs
    np.testing.assert_allclose(student.outputs, torch_outputs, atol=1e-5)
    assert rmtkd_edge.load(made.run).predict([]).labels == []


def test_an_export_scores_what_compress_did(made: SimpleNamespace) -> None:
    fp32 = made.exported.variants["fp32"]
    for split in ("test", "validation"):
        wanted, found = getattr(made.record.student, split), getattr(fp32, split)
        assert found.rows == wanted.rows and found.values == pytest.approx(wanted.values, abs=1e-4)
    card = (made.run / "export/README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card and "sentence-transformers" in card


def test_other_clients_pool_what_ours_pools(made: SimpleNamespace) -> None:
    """Of the second output, with mask and normalisation, as Optimum and transformers.js read it."""
    from onnxruntime import InferenceSession
    from transformers import AutoTokenizer

    session = InferenceSession(str(made.run / "export/onnx/model.onnx"), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    rows = AutoTokenizer.from_pretrained(made.run / "export")(TEXTS, padding=True, return_tensors="np")
    ours, tokens = session.run(None, {item.name: rows[item.name] for item in session.get_inputs()})
    mask = rows["attention_mask"][..., None]
    theirs = metrics.unit((tokens * mask).sum(1) / mask.sum(1))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    config = json.loads((made.run / "export/config.json").read_text())
    assert config["architectures"] == ["BertModel"] and "id2label" not in config


def test_sentence_transformers_gives_the_same_embeddings(made: SimpleNamespace) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(made.run / "baseline"), device="cpu")
    found = rmtkd_edge.load(made.run / "baseline").predict(TEXTS).outputs
    np.testing.assert_allclose(theirs.encode(TEXTS), found, atol=1e-5)
    assert theirs.max_seq_length == 24


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"distil": {"alpha": 0.5}}, "distil.alpha = 0.5 must be 0"),
        ({"model": {"family": "resnet", "source": "scratch"}}, "does not go with the family resnet"),
        ({"task": {"metric": "accuracy"}}, "no metric `accuracy`"),
    ],
)
def test_bad_recipes_are_refused(sections: dict[str, Any], part: str, embedder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(settings(embedder, **sections), "test")
    assert part in caught.value.message


def test_two_columns_are_no_sentence(embedder: Path, data: Path) -> None:
    recipe = parse_recipe(settings(embedder, task={"text": ["first", "second"]}), "test")
    with pytest.raises(DataError, match="an embedding is of one text"):
        prepare(recipe, data.parent / "pairs.jsonl")


def test_only_held_out_rows_have_the_teachers_embeddings(embedder: Path, data: Path) -> None:
    ready = prepare(parse_recipe(settings(embedder), "test"), data)
    assert isinstance(TASK, JudgedByTeacher) and ready.data.labelled == 0 and ready.data.rows == 300
    width = lambda batch: batch["index"][:, None].float().repeat(1, 3).numpy()
    found = TASK.with_reference(ready.dataset, width)
    assert found.train.labels is None and found.validation.labels[:, 0].tolist() == [*range(60)]
    again = TASK.with_same_reference(ready.dataset, found)
    assert np.array_equal(again.test.labels, found.test.labels)
    (batch, *_) = TASK.batches(found, found.train, 16, 0)
    with pytest.raises(DataError, match="no labels"):
        TASK.loss(torch.zeros(16, 3), batch)


def test_with_fewer_tokens_the_reference_stays(embedder: Path, data: Path) -> None:
    recipe = parse_recipe(settings(embedder, compress={"vocabulary": 1}), "test")
    ready = prepare(recipe, data)
    model = ready.family.load(recipe, (), ready.dataset.preprocessing)[0].eval()
    judged = ready.judged_by(model, recipe)
    fewer, smaller, record = fewer_tokens(recipe, judged, model, data)
    assert record is not None
    assert np.array_equal(fewer.dataset.test.labels, judged.dataset.test.labels)
    assert fewer.score(smaller, recipe, "validation").value > 0.99


# --- metrics and loss ---


def test_metrics_are_cosines_and_rank_correlations() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((30, 8)).astype(np.float32)
    outputs = (3 * reference + rng.standard_normal((30, 8))).astype(np.float32)
    found = TASK.metrics([outputs[:10], outputs[10:]], [reference[:10], reference[10:]])
    cosine = F.cosine_similarity(torch.from_numpy(outputs), torch.from_numpy(reference))
    assert found["cosine_similarity"] == pytest.approx(float(cosine.mean()), abs=1e-6)
    upper = np.triu_indices(30, 1)
    similar = [(metrics.unit(side) @ metrics.unit(side).T)[upper] for side in (outputs, reference)]
    assert found["spearmanr"] == pytest.approx(spearmanr(*similar).statistic)
    for name, value in found.items():
        low, high = TASK.interval(name, [outputs], [reference])
        assert low <= value <= high
    assert "sts_spearmanr" not in found and "task.pairs" in TASK.why_missing("sts_spearmanr", [outputs], [reference])


def test_pairs_are_judged_by_their_scores_wherever_their_halves_are() -> None:
    rng = np.random.default_rng(1)
    outputs, reference = rng.standard_normal((2, 14, 4))
    pairs, scores = np.r_[-1, -1, np.tile(np.arange(6), 2)], np.r_[0, 0, np.tile(rng.random(6), 2)]
    targets = np.c_[reference, pairs, scores]
    order = rng.permutation(14)
    found = metrics.embedding_metrics(outputs[order], targets[order])
    mine = metrics.unit(outputs)
    assert found["sts_spearmanr"] == pytest.approx(spearmanr((mine[2:8] * mine[8:]).sum(1), scores[2:8]).statistic)
    alone = metrics.embedding_metrics(outputs[:2], reference[:2])
    assert found["cosine_similarity"] == pytest.approx(alone["cosine_similarity"])
    assert TASK.row_scores("cosine_similarity", outputs, targets) is None


def test_of_unit_vectors_the_distance_is_one_minus_the_cosine() -> None:
    old, new = (F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(i)), dim=1) for i in (0, 1))
    off = (old @ old.T - new @ new.T).pow(2)[~torch.eye(5, dtype=torch.bool)].mean()
    wanted = (1 - (old * new).sum(1)).mean() + off
    torch.testing.assert_close(TASK.divergence(old, new), wanted)
    turned = old @ torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))[0]
    torch.testing.assert_close(TASK.divergence(old, turned), (1 - (old * turned).sum(1)).mean())


# --- checkpoints ---


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_the_pooling_is_that_of_the_source(tmp_path: Path, tiny_tokenizer: Path, pooling: str) -> None:
    from transformers import AutoModel

    write_embedder(tmp_path, tiny_tokenizer, pooling, MODULES[:2])
    encoder, ready = pretrained(str(tmp_path), (), None, "embedding")
    ids = torch.randint(5, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.no_grad():
        states = AutoModel.from_pretrained(tmp_path).eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        found = encoder.eval()(ids, mask)
    wanted = states[:, 0] if pooling == "cls_token" else (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    assert ready and not encoder.spec.normalised
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "modules", "part"),
    [
        ("max_tokens", MODULES, "pools by pooling_mode_max_tokens"),
        ("mean_tokens", ("Transformer", "Pooling", "Dense"), "has the modules Dense"),
    ],
)
def test_other_ways_to_pool_are_refused(
    tmp_path: Path, tiny_tokenizer: Path, pooling: str, modules: tuple[str, ...], part: str
) -> None:
    write_embedder(tmp_path, tiny_tokenizer, pooling, modules)
    with pytest.raises(UserError, match=part):
        pretrained(str(tmp_path), (), None, "embedding")


@pytest.mark.parametrize(
    ("kind", "head", "part"),
    [
        ("SequenceClassification", "embedding", "text-classification"),
        ("MaskedLM", "embedding", "were not trained as embeddings"),
    ],
)
def test_a_checkpoint_of_another_task_names_it(tmp_path: Path, kind: str, head: Any, part: str) -> None:
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=16, **sizes)
    getattr(transformers, f"BertFor{kind}")(config).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        pretrained(str(tmp_path), ("a", "b") if head != "embedding" else (), None, head)
    assert part in f"{caught.value.message} {caught.value.hint}"


def test_an_embedder_is_never_trained_whatever_the_threshold(data: Path, embedder: Path, tmp_path: Path) -> None:
    """Pairs that agree with nothing: the metric is about 0, under any threshold."""
    pairs = {"pairs": str(data.parent / "pairs.jsonl"), "pair_columns": ["first", "second", "how"]}
    known = settings(embedder, train={"threshold": 0.99}, compress={"one_shot": True})
    known["task"] |= {**pairs, "metric": "spearmanr"}
    recipe = parse_recipe({**known, "title": "tiny"}, "tiny")
    ready = prepare(recipe, data)
    run = Run.create(tmp_path / "run", recipe.to_toml(), recipe.seed)
    judged, model, teacher = ready_teacher(run, recipe, ready, lambda *_, **__: None)
    assert not teacher.trained and model.spec.outputs == 32
    rows = judged.data.validation()
    baseline = baseline_value(judged.task, rows, model.spec.outputs, "cosine_similarity")
    assert baseline is not None and 0 < baseline < 1


def test_an_embedder_may_have_been_saved_from_another_class(tiny_tokenizer: Path, tmp_path: Path) -> None:
    write_embedder(tmp_path / "masked", tiny_tokenizer)
    config = json.loads((tmp_path / "masked/config.json").read_text())
    (tmp_path / "masked/config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    assert pretrained(str(tmp_path / "masked"), (), None, "embedding")[1]
    (tmp_path / "masked/modules.json").unlink()
    with pytest.raises(UserError, match="a BertForMaskedLM, whose states were not trained as embeddings"):
        pretrained(str(tmp_path / "masked"), (), None, "embedding")


def test_class_labels_are_no_embeddings() -> None:
    with pytest.raises(DataError, match=r"`labels` is \(3,\)"):
        TASK.targets({"labels": torch.arange(3)})


def test_pairs_belong_to_embeddings(tiny_recipe_dict: dict[str, Any]) -> None:
    task = {**tiny_recipe_dict["task"], "pairs": "pairs.csv"}
    with pytest.raises(RecipeError, match=r"task\.pairs does not go with"):
        parse_recipe({**tiny_recipe_dict, "task": task}, "tiny")
