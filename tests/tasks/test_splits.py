"""Which split is which: names and synonyms, files, class folders, arrays; what is held out, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from pydantic import ValidationError
from tasks.tasks_sample import recipe_of

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import text_classification as text
from rmtkd_edge.tasks.reading.splits import Source, choose, share_out
from rmtkd_edge.tasks.reading.stratify import Classes, LabelSets
from rmtkd_edge.tasks.reading.tables import load_tables

TASK = Task(name="t", text=["text"])
IMAGES = Task(name="t", kind="image-classification")


def changed(task: Task = TASK, **keys: Any) -> Task:
    return Task.model_validate({**task.model_dump(), **keys})


@pytest.mark.parametrize(
    ("names", "keys", "wanted"),
    [
        (["train"], {}, {}),
        (["train", "test"], {}, {"test": "test"}),  # a test split never chooses
        (["train", "val", "test"], {}, {"validation": "val", "test": "test"}),
        (["train", "dev", "valid"], {}, {"validation": "valid"}),
        (["train", "validation", "dev"], {}, {"validation": "validation"}),
        (["train", "validation", "test"], {"validation_split": ""}, {"test": "test"}),
        (["train", "validation", "test"], {"validation_split": "", "test_split": "validation"}, {"test": "validation"}),
        (["train", "val"], {"test_split": "val"}, {"test": "val"}),  # what is named is not taken for a synonym
        (["train", "validation"], {"test_split": ""}, {"validation": "validation"}),
        (["train", "a", "b"], {"validation_split": "b", "test_split": "a"}, {"validation": "b", "test": "a"}),
        (["fit", "train"], {"train_split": "fit"}, {}),
        (["dev", "test"], {"train_split": "dev"}, {"test": "test"}),
        (["train", "eval"], {}, {"test": "eval"}),
        (["train", "testing", "evaluation"], {}, {"test": "testing"}),
        (["train", "Val", "TEST"], {}, {"validation": "Val", "test": "TEST"}),
    ],
)
def test_every_role_finds_its_split(names: list[str], keys: dict[str, Any], wanted: dict[str, str]) -> None:
    task = changed(**keys)
    assert choose(task, names, "the data") == {"train": task.train_split, **wanted}


@pytest.mark.parametrize("name", ["Train", "training", "TRAINING"])
def test_train_has_other_names_too(name: str) -> None:
    assert choose(TASK, [name, "Valid"], "the data") == {"train": name, "validation": "Valid"}
    with pytest.raises(DataError, match="has no split `fit`"):
        choose(changed(train_split="fit"), [name], "the data")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"train_split": "trian"}, r"the data has no split `trian` \(it has train, validation\)"),
        ({"validation_split": "validatoin"}, r"no split `validatoin`; did you mean `validation`\? \(it has train"),
        ({"test_split": "holdout"}, r"no split `holdout`"),
        ({"validation_split": "train"}, r"task\.train_split and task\.validation_split are both `train`"),
    ],
)
def test_a_mistyped_split_is_refused_with_the_names_that_exist(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        choose(changed(**keys), ["train", "validation"], "the data")
    assert next(iter(keys)) in caught.value.hint


# --- what is held out ---


def shares(task: Task, seed: int = 0, **rows: int) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    parts = {role: pa.table({"row": range(1000 * i, 1000 * i + n)}) for i, (role, n) in enumerate(rows.items())}
    found = share_out(task, Source(parts, {role: f"{role}.csv" for role in parts}), seed)
    return {role: table["row"].to_pylist() for role, table in found.parts.items()}, found.notes


@pytest.mark.parametrize("limits", [{}, {"train_limit": 12, "validation_limit": 12}])
def test_a_seed_of_the_split_holds_out_the_same_rows_whatever_the_seed_of_the_run(limits: dict[str, int]) -> None:
    of_run_7, _ = shares(changed(**limits), 7, train=200)
    assert shares(changed(**limits, split_seed=7), 3, train=200)[0] == of_run_7
    assert shares(changed(**limits), 3, train=200)[0] != of_run_7


@pytest.mark.parametrize("seed", [0, 7])
def test_validation_is_held_out_first_and_test_next_of_one_permutation(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(100)
    found, notes = shares(changed(validation_fraction=0.2), seed, train=100)
    assert found["validation"] == sorted(order[:20]) and found["test"] == sorted(order[20:30])
    assert found["train"] == sorted(order[30:])
    assert notes == (
        "train 70 rows of train.csv; validation 20 rows held out of train; test 10 rows held out of train",
    )
    without, _ = shares(changed(validation_fraction=0.2, test_fraction=0), seed, train=100)
    assert without["validation"] == found["validation"] and "test" not in without and len(without["train"]) == 80


def test_only_what_is_missing_is_held_out() -> None:
    order = np.random.default_rng(0).permutation(100)
    found, _ = shares(TASK, train=100, validation=5)
    assert found["validation"] == list(range(1000, 1005)) and found["test"] == sorted(order[:10])
    found, _ = shares(TASK, train=100, test=5)
    assert found["validation"] == sorted(order[:10]) and found["test"] == list(range(1000, 1005))
    found, _ = shares(TASK, train=100, validation=5, test=4)
    assert [len(found[role]) for role in ("train", "validation", "test")] == [100, 5, 4]


def test_without_a_test_split_the_note_says_what_is_reported() -> None:
    _, notes = shares(changed(test_fraction=0), train=100, validation=5)
    assert notes == (
        "train 100 rows of train.csv; validation 5 rows of validation.csv; no test: validation is reported",
    )


def test_limits_are_drawn_after_holding_out_and_in_the_order_of_the_roles() -> None:
    task = changed(train_limit=30, validation_limit=4, test_limit=3)
    found, _ = shares(task, train=100)
    whole, _ = shares(TASK, train=100)
    rng = np.random.default_rng([0, 2])
    for role, limit in (("train", 30), ("validation", 4), ("test", 3)):
        rows = np.array(whole[role])
        assert found[role] == rows[np.sort(rng.permutation(len(rows))[:limit])].tolist()


@pytest.mark.parametrize(
    ("keys", "rows", "role"),
    [
        ({"validation_fraction": 0.0}, 100, "validation"),
        ({"validation_fraction": 1.0}, 100, "validation"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, 100, "test"),
        ({"validation_fraction": 0.5, "test_fraction": 0.1}, 4, "test"),
    ],
)
def test_an_empty_side_is_refused(keys: dict[str, Any], rows: int, role: str) -> None:
    with pytest.raises(DataError, match=f"no {role} split, and .* leaves a side empty") as caught:
        shares(changed(**keys), train=rows)
    assert f"task.{role}_fraction" in caught.value.hint


def classes_of(found: dict[str, list[int]], classes: np.ndarray) -> dict[str, list[str]]:
    return {role: sorted(set(classes[rows].tolist())) for role, rows in found.items()}


def shared(classes: np.ndarray, seed: int, **keys: Any) -> dict[str, list[int]]:
    source = Source({"train": pa.table({"row": range(len(classes))})}, {"train": "train.csv"})
    names, numbers = np.unique(classes, return_inverse=True)
    parts = share_out(changed(**keys), source, seed, Classes(names.tolist(), numbers)).parts
    return {role: table["row"].to_pylist() for role, table in parts.items()}


@pytest.mark.parametrize("seed", range(12))
def test_small_classes_are_on_every_side(seed: int) -> None:
    classes = np.array(["a"] * 80 + ["b"] * 10 + ["c"] * 10)
    found = shared(classes, seed)
    assert classes_of(found, classes) == {role: ["a", "b", "c"] for role in ("train", "validation", "test")}
    assert sorted(row for rows in found.values() for row in rows) == list(range(100))
    assert [len(found[role]) for role in ("train", "validation", "test")] == [80, 10, 10]


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_class_that_is_shared_out_stays_in_train(seed: int) -> None:
    classes = np.array(["a"] * 97 + ["b"] * 3)
    assert classes_of(shared(classes, seed), classes)["train"] == ["a", "b"]


def test_large_classes_are_drawn_as_rows_without_classes_are() -> None:
    classes = np.array(["a"] * 700 + ["b"] * 300)
    assert shared(classes, 5) == shares(TASK, 5, train=1000)[0]


@pytest.mark.parametrize(
    ("classes", "keys", "says"),
    [
        (["a"] * 50 + ["b"] * 49 + ["c"], {}, r"in 3 ways, and these labels have fewer rows: c \(1\)"),
        (["a"] * 50 + ["b"] * 48 + ["c"] * 2, {}, r"c \(2\)"),
        (
            ["a"] * 50 + ["b"] * 49 + ["c"],
            {"test_fraction": 0},
            r"in 2 ways, and these labels have fewer rows: c \(1\)",
        ),
        (
            [f"{i % 25:02d}" for i in range(100)],
            {},
            "10 rows of 100 that are held out as validation cannot hold all 25",
        ),
    ],
)
def test_labels_that_are_too_few_to_split_are_refused(classes: list[str], keys: dict[str, Any], says: str) -> None:
    for seed in range(4):
        with pytest.raises(DataError, match=says) as caught:
            shared(np.array(classes), seed, **keys)
    assert "split" in caught.value.hint


@pytest.mark.parametrize("seed", range(6))
def test_rare_labels_of_a_set_are_on_every_side_in_their_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random((400, 12)) < np.linspace(0.02, 0.5, 12)
    sizes = [40, 80]
    order = LabelSets(present).order(sizes, seed)
    assert sorted(order.tolist()) == list(range(400))
    for rows in np.split(order, np.cumsum(sizes)):
        off, by_chance = (np.abs(present[r].mean(0) - present.mean(0)) for r in (rows, rng.choice(400, len(rows))))
        assert (off[:6] * len(rows) <= 1).all() and off.sum() < by_chance.sum()


def test_label_sets_are_shared_out_only_where_a_label_is_rare() -> None:
    often, rare = np.zeros((1000, 2), bool), np.zeros((1000, 2), bool)
    often[::2, 0], often[1::2, 1] = True, True
    rare[:, 0], rare[::25, 1] = True, True
    source = Source({"train": pa.table({"row": range(1000)})}, {"train": "train.csv"})

    def found(present: np.ndarray, seed: int) -> dict[str, list[int]]:
        parts = share_out(TASK, source, seed, LabelSets(present)).parts
        return {role: table["row"].to_pylist() for role, table in parts.items()}

    assert found(often, 5) == shares(TASK, 5, train=1000)[0]
    for seed in range(8):
        assert [rare[rows, 1].sum() for rows in found(rare, seed).values()] == [32, 4, 4]
        assert found(rare, seed) == found(rare, seed)


def test_what_is_held_out_holds_every_label_of_a_file(tmp_path: Path, tiny_tokenizer: Path) -> None:
    rows = [{"text": "a film", "label": "rare" if i < 4 else f"often-{i % 2}"} for i in range(60)]
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "train.csv")
    for seed in range(6):
        found = text.TASK.load(recipe_of(changed(test_fraction=0), str(tiny_tokenizer), seed), tmp_path)
        assert 2 in found.train.labels
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows[3:]), tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"fewer rows: rare \(1\)"):
        text.TASK.load(recipe_of(changed(test_fraction=0), str(tiny_tokenizer)), tmp_path)


def test_labels_without_rows_are_told_and_labels_named_twice_are_refused(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write(tmp_path, train=40, val=8, test=6)
    task = changed(labels=["0", "1", "2"])
    found = text.TASK.load(recipe_of(task, str(tiny_tokenizer)), tmp_path)
    assert [note for note in found.notes if "no rows" in note] == [
        f"{role} has no rows of the labels 2" for role in ("train", "validation", "test")
    ]
    with pytest.raises(ValidationError, match=r"task\.labels names 1 more than once"):
        changed(labels=["0", "1", "1"])


# --- folders ---


def write(folder: Path, **counts: int) -> Path:
    folder.mkdir(exist_ok=True)
    for name, count in counts.items():
        rows = [{"text": f"{name} film {i}", "label": i % 2} for i in range(count)]
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), folder / f"{name}.csv")
    return folder


def test_a_folder_says_what_became_what_and_what_was_not_used(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write(tmp_path, train=40, val=8, test=6, dev=4)
    (tmp_path / "README.md").write_text("read me", encoding="utf-8")
    (tmp_path / ".hidden").write_text("", encoding="utf-8")
    found = text.TASK.load(recipe_of(TASK, str(tiny_tokenizer)), tmp_path)
    assert found.test is not None and [len(s) for s in (found.train, found.validation, found.test)] == [40, 8, 6]
    assert found.notes == (
        "train 40 rows of train.csv; validation 8 rows of val.csv; test 6 rows of test.csv",
        f"not used of {tmp_path.name}: 2 (README.md, dev.csv)",
    )


def test_the_present_folder_has_a_name(tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, train=40)
    (tmp_path / "my.toml").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(TASK, str(tiny_tokenizer))
    there, here = (text.TASK.load(recipe, path).notes for path in (tmp_path, Path()))
    assert here == there and f"not used of {tmp_path.name}: 1 (my.toml)" in here


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path, train=40)
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"the split `train` more than once: train\.csv, train\.parquet"):
        load_tables(TASK, tmp_path)


def test_hidden_files_are_no_splits_and_not_counted(tmp_path: Path) -> None:
    write(tmp_path, train=40, val=8)
    (tmp_path / "__MACOSX").mkdir()
    for name in (".train.csv", "._val.csv", "__MACOSX/._train.csv"):
        (tmp_path / name).write_text("no table", encoding="utf-8")
    source = load_tables(TASK, tmp_path)
    assert source.origins == {"train": "train.csv", "validation": "val.csv"} and source.unused == ""


def test_one_file_has_no_other_split(tmp_path: Path) -> None:
    file = write(tmp_path, all=40) / "all.csv"
    assert load_tables(TASK, file).origins == {"train": "all.csv"}
    with pytest.raises(DataError, match=r"all\.csv has no split `validation`") as caught:
        load_tables(changed(validation_split="", test_split="validation"), file)
    assert '--set task.test_split=""' in caught.value.hint


def test_a_test_split_with_hidden_labels_is_refused_with_both_ways_out(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write(tmp_path, train=40, validation=10)
    hidden = pa.table({"text": ["a film", "some film"], "label": [-1, -1]})
    pyarrow.parquet.write_table(hidden, tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"labels in test .*hidden") as caught:
        text.TASK.load(recipe_of(TASK, str(tiny_tokenizer)), tmp_path)
    assert '--set task.test_split=""' in caught.value.hint and "task.test_split=validation" in caught.value.hint
    glue = recipe_of(changed(validation_split="", test_split="validation"), str(tiny_tokenizer))
    found = text.TASK.load(glue, tmp_path)
    assert found.test is not None and (len(found.train), len(found.validation), len(found.test)) == (36, 4, 10)
