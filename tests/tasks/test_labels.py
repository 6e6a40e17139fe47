"""Labels as files have them: what is a class, in which order, and what is refused before it becomes a wrong answer."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from rmtkd_edge.config.recipe import Task
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
