"""A run whose students read the tokens that the training rows use."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
from sentences_sample import BAD, GOOD, PLAIN, sentences, write_csv

import rmtkd_edge
from rmtkd_edge.api.compress import CompressOptions, forecast
from rmtkd_edge.api.export import ExportOptions, export_run
from rmtkd_edge.compress.resume import forget_damaged
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import load_recipe, parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.outputs import read_outputs
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer

RARE = ["meanwhile", "nevertheless", "notwithstanding"]  # of the test split alone


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_recipe_dict):
    """A run that cuts nothing but the vocabulary, exported."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("vocabulary")
    letters = sorted({c for word in [*PLAIN, *GOOD, *BAD, *RARE] for c in word})
    words = [*PLAIN, *GOOD, *BAD, *RARE, *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "tokenizer")
    test = [(f"{RARE[i % 3]} {text}" if i % 2 else text, label) for i, (text, label) in enumerate(sentences(90, 2))]
    for name, rows in {"train": sentences(600, 0), "validation": sentences(150, 1), "test": test}.items():
        write_csv(folder / f"{name}.csv", rows)
    settings = copy.deepcopy(tiny_recipe_dict)
    settings["model"]["tokenizer"] = str(folder / "tokenizer")
    settings["compress"] |= {"vocabulary": 1, "one_shot": True, "sites": ["pooler"], "ranks": {"pooler": 32}}
    settings["stop"] = {"target_reduction": "none"}
    recipe = parse_recipe(settings, "test")
    made = Run.create(folder / "run", recipe.to_toml(), recipe.seed)
    compress_run(made, recipe, data=folder, reporter=SilentReporter())
    export_run(ExportOptions(folder / "run"))
    return Run.open(folder / "run"), test


def test_students_alone_read_fewer_tokens(run):
    found, _ = run
    record = found.read_record(CompressRecord, layout.RESULT)
    vocabulary = record.vocabulary
    assert vocabulary.before - vocabulary.after == len(RARE)
    assert record.teacher.parameters - record.student.parameters == 32 * len(RARE)
    assert vocabulary.splits["train"].rows_changed == 0 == vocabulary.splits["validation"].rows_changed
    assert vocabulary.splits["test"].rows_changed == 0.5
    assert vocabulary.splits["test"].unknown_after == 0
    assert any("split otherwise" in note for note in record.notes)


def test_outputs_of_teacher_and_student_are_of_the_same_rows(run):
    found, test = run
    outputs = read_outputs(found)
    teacher, student = np.concatenate(outputs.teacher), np.concatenate(outputs.students[""])
    assert teacher.shape == student.shape == (len(test), 2)
    same = np.isclose(teacher, student, atol=1e-5).all(1)
    assert same.sum() == len(test) / 2  # those that are split as before
    record = found.read_record(CompressRecord, layout.RESULT)
    accuracy = (student.argmax(1) == np.concatenate(outputs.targets)).mean()
    assert accuracy == pytest.approx(record.student.test.value)


def test_every_exported_folder_has_its_own_tokenizer(run):
    found, test = run
    vocabulary = found.read_record(CompressRecord, layout.RESULT).vocabulary
    for role, tokens in (("candidate", vocabulary.after), ("baseline", vocabulary.before)):
        folder = found.path_of(layout.ROLES[role].folder)
        assert len(load_tokenizer(str(folder))) == tokens
        record = found.read_record(ExportRecord, layout.ROLES[role].record)
        assert any("split otherwise" in note for note in record.notes) == (role == "candidate")
        predicted = rmtkd_edge.load(folder).predict([text for text, _ in test]).labels
        accuracy = np.mean([a == b for a, (_, b) in zip(predicted, test, strict=True)])
        assert accuracy == pytest.approx(record.variants["fp32"].test.value)


def test_a_lost_tokenizer_is_made_again(run, tmp_path):
    found, _ = run
    shutil.copytree(found.path, tmp_path / "copy")
    copied = Run.open(tmp_path / "copy")
    copied.path_of(f"{layout.STUDENT_PREPROCESSING}/tokenizer.json").unlink()
    assert "last finished step" in forget_damaged(copied)[0]
    assert not any(rel.startswith(f"{layout.STUDENT_PREPROCESSING}/") for rel in copied.manifest["files"])


@pytest.mark.parametrize("changes", [[], ["compress.layers=1", "compress.one_shot=false", "distil.match=1.0"]])
def test_a_dry_run_knows_what_is_cut_before_the_widths(run, changes):
    found, _ = run
    sites = ["compress.ranks={}", 'compress.sites=["ffn"]', "stop.target_reduction=0.01", "distil.alpha=0"]
    more = found.path.parent / "more.csv"
    write_csv(more, sentences(40, 7))
    overrides = (*sites, *changes, f'task.unlabelled="{more}"')
    options = CompressOptions(str(found.path / layout.RECIPE), Path(), overrides, data=found.path.parent)
    told = forecast(options, SilentReporter())
    record = found.read_record(CompressRecord, layout.RESULT)
    assert any("split otherwise" in note for note in told.notes)
    assert told.teacher.parameters == record.teacher.parameters
    (target,) = told.targets
    assert target.shapes[0].parameters <= record.student.parameters
    assert {site.name for site in told.sites} == {f"layer.{i}.ffn" for i in range(1 if changes else 2)}


def test_families_without_a_vocabulary_refuse_the_key():
    with pytest.raises(RecipeError, match=r"compress.vocabulary does not go with the family resnet"):
        load_recipe("demo-images", ["compress.vocabulary=1"])
