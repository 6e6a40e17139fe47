"""Labels as files have them: what is a class, in which order, and what is refused before it becomes a wrong answer."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.labels import label_names, label_notes, label_numbers, with_names
from rmtkd_edge.tasks.reading.places import with_places

TASK = Task(name="t", text=["text"])


def table(labels: list) -> pa.Table:
    return pa.table({"label": labels})


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "-1", "9"], ["9", "10"]),  # numbers as text, -1 hidden
        (["02", "01"], ["01", "02"]),
        (["1.0", "2.0"], ["1.0", "2.0"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["true", "false"], ["false", "true"]),
        (["inf", "nan"], ["inf", "nan"]),
    ],
)
def test_numbers_that_a_file_has_as_text_stay_text_in_the_order_of_numbers(values, names):
    assert label_names(TASK, table(values)) == names


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.5 * i for i in range(40)], "numbers with fractions.*regression"),
        ([f"{0.5 * i:.1f}" for i in range(40)], "numbers with fractions.*regression"),
        (list(range(3000)), "3,000 different values in 3,000 rows"),
        ([f"id-{i}" for i in range(30)] + ["id-0"] * 20, "30 different values in 50 rows"),
    ],
)
def test_measurements_and_row_numbers_are_no_classes(values, says):
    with pytest.raises(DataError, match=says) as caught:
        label_names(TASK, table(values))
    assert "task.label" in caught.value.hint and "task.labels" in caught.value.hint


def test_named_classes_are_believed():
    steps = ["0.5", "1.0", "1.5"]
    task = TASK.model_copy(update={"labels": steps})
    assert label_names(task, table([0.5, 1.5, 1.0])) == steps
    assert label_numbers(task, table([0.5, 1.5]), "train", steps).tolist() == [0, 2]
    many = [str(i) for i in range(30)]
    assert label_names(TASK, with_names(table(list(range(30))), "label", many)) == many


def test_labels_that_are_nearly_the_same_are_told_and_stripped_on_request():
    rows = table(["yes ", " yes", "Yes", "yes", "yes", "no"])
    (note,) = label_notes(TASK, rows)
    assert "'yes' (2)" in note and "' yes' (1)" in note and "task.strip_labels=true" in note
    task = TASK.model_copy(update={"strip_labels": True})
    assert label_names(task, rows) == ["Yes", "no", "yes"]
    assert label_numbers(task, rows, "train", ["Yes", "no", "yes"]).tolist() == [2, 2, 0, 2, 2, 1]
    (note,) = label_notes(task, rows)
    assert "'Yes' (1), 'yes' (4)" in note and "strip_labels" not in note
    with pytest.raises(DataError) as caught:
        label_numbers(TASK, table(["no "]), "test", ["no", "yes"])
    assert "strip_labels" in caught.value.hint


def test_names_given_twice_are_refused():
    with pytest.raises(ValidationError, match="names no more than once"):
        Task(name="t", text=["text"], labels=["no", "yes", "no"])


def test_numbers_are_places_only_where_somebody_said_the_order():
    names = label_names(TASK, table(["yes", "no"]))
    with pytest.raises(DataError, match="none of no, yes") as caught:
        label_numbers(TASK, table([0, 1]), "validation", names)
    assert "task.labels" in caught.value.hint
    other_order = with_names(table([0, 1]), "label", ["yes", "no"])
    assert label_numbers(TASK, other_order, "validation", names).tolist() == [1, 0]
    with pytest.raises(DataError, match="none of"):  # 1 is the name of the first, never the place of the second
        label_numbers(TASK.model_copy(update={"labels": ["1.0", "2.0"]}), table([1, 2]), "train", ["1.0", "2.0"])


def test_the_line_of_a_label_is_named():
    rows = with_places(table(["no", "maybe"]), "train.csv", [2, 5], "line")
    with pytest.raises(DataError, match=r"train\.csv line 5 has 'maybe'"):
        label_numbers(TASK, rows, "train", ["no", "yes"])


@pytest.mark.parametrize("stored", [b"{", b"[]", b'{"info": []}', b'{"info": {"features": {"label": {"names": [1]}}}}'])
def test_metadata_that_cannot_be_read_are_refused_unless_the_recipe_names_the_labels(stored):
    rows = table([0, 1]).replace_schema_metadata({b"huggingface": stored})
    with pytest.raises(DataError, match="`huggingface`") as caught:
        label_names(TASK, rows)
    assert "task.labels" in caught.value.hint
    task = TASK.model_copy(update={"labels": ["no", "yes"]})
    assert label_numbers(task, rows, "train", label_names(task, rows)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([1, 0]).cast(pa.decimal128(20, 0)), ["0", "1"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"]),
        (pa.array([True, False]), ["False", "True"]),
        (pa.array([1.0, 0.0], pa.float32()), ["0", "1"]),
    ],
    ids=["decimals", "categories", "truth values", "floats"],
)
def test_numbers_and_texts_of_every_type_are_labels(values, names):
    rows = pa.table({"label": pa.chunked_array([values, values])})
    assert label_names(TASK, rows) == names
    assert label_numbers(TASK, rows, "train", names).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("s"), pa.duration("s")], ids=str)
def test_times_are_no_labels(kind):
    with pytest.raises(DataError, match="the label column `label` of train holds") as caught:
        label_names(TASK, pa.table({"label": pa.array([0, 1], kind)}))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["caf\u00e9", "cafe\u0301", "bar"], "'cafe\u0301' (1), 'caf\u00e9' (1)"),
        (["yes", "yes\u200b", "no"], "'yes' (1), 'yes\\u200b' (1)"),
        (["1", "01", "1.0", "2"], "'01' (1), '1' (1), '1.0' (1)"),
        (["yes", "ｙｅｓ", "no"], "look alike"),
    ],
    ids=["accents", "invisible", "numbers", "wide"],
)
def test_labels_that_only_look_the_same_are_told(values, told):
    (note,) = label_notes(TASK, table(values))
    assert told in note and "classes of their own" in note


def test_labels_that_look_like_missing_values_are_told():
    (note,) = label_notes(TASK, table(["nan", "good", "bad", "N/A", "nan"]))
    assert "'nan' (2), 'N/A' (1)" in note
    named = TASK.model_copy(update={"labels": ["nan", "good", "bad", "N/A"]})
    assert label_notes(named, table(["nan", "good", "bad", "N/A"])) == ()


def test_rows_without_a_label_are_counted_and_told_as_what_they_are():
    rows = with_places(table(["yes", None, "no", None]), "train.csv", [2, 3, 4, 5], "line")
    with pytest.raises(DataError, match=r"2 of 4 labels in train .* train\.csv line 3 has none") as caught:
        label_numbers(TASK, rows, "train", ["no", "yes"])
    assert "drop" in caught.value.hint
    with pytest.raises(DataError, match="labels are hidden") as caught:  # a test file of Kaggle
        label_numbers(TASK, pa.table({"label": pa.array([None, None], pa.string())}), "test", ["no", "yes"])
    assert 'task.test_split=""' in caught.value.hint
