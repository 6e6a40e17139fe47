"""Splits in several files: all of them in their order, or none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.labels import with_names
from rmtkd_edge.tasks.reading.places import columns, place
from rmtkd_edge.tasks.reading.tables import load_tables

TASK = Task(name="t", text=["text"])
ROWS = [{"text": f"row {i}", "label": i % 2} for i in range(7)]


def shard(folder: Path, number: int, count: int, rows: list[dict], names: list[str] | None = None) -> Path:
    table = pa.Table.from_pylist(rows)
    path = folder / f"train-{number:05}-of-{count:05}.parquet"
    pyarrow.parquet.write_table(table if names is None else with_names(table, "label", names), path)
    return path


def test_the_files_of_a_split_are_read_in_their_order_and_rows_know_theirs(tmp_path: Path):
    shard(tmp_path, 1, 2, ROWS[4:])
    first = shard(tmp_path, 0, 2, ROWS[:4])
    (tmp_path / "notes.md").write_text("about")
    source = load_tables(TASK, tmp_path)
    table = source.parts["train"]
    assert table.select(columns(table)).to_pylist() == ROWS
    assert [place(table, i) for i in (3, 4)] == [f"{first.name} row 3", "train-00001-of-00002.parquet row 0"]
    taken = table.take([5, 0])
    assert place(taken, 0) == "train-00001-of-00002.parquet row 1" and place(taken, 1) == f"{first.name} row 0"
    assert source.origins["train"] == f"{first.name} and 1 more"
    assert source.unused.endswith("1 (notes.md)")


def test_lines_of_several_files_are_told(tmp_path: Path):
    for number in range(2):
        (tmp_path / f"train-{number:05}-of-00002.csv").write_text("text,label\na,0\n\nb,1\n")
    table = load_tables(TASK, tmp_path).parts["train"]
    assert [place(table, i) for i in range(4)] == [
        f"train-0000{n}-of-00002.csv line {line}" for n in (0, 1) for line in (2, 4)
    ]


@pytest.mark.parametrize("numbers", [(0,), (1, 2), (0, 2)])
def test_a_missing_file_is_named(tmp_path: Path, numbers: tuple[int, ...]):
    for number in numbers:
        shard(tmp_path, number, 3, ROWS)
    with pytest.raises(DataError, match=f"holds {len(numbers)} of the 3 files of the split `train`"):
        load_tables(TASK, tmp_path)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path):
    shard(tmp_path, 0, 2, ROWS, ["no", "yes"])
    shard(tmp_path, 1, 2, ROWS, ["yes", "no"])
    with pytest.raises(DataError, match="name the labels of `label` differently"):
        load_tables(TASK, tmp_path)
    shard(tmp_path, 1, 2, [{"text": 7, "label": "x"}])
    shard(tmp_path, 0, 2, ROWS)
    with pytest.raises(DataError, match="do not go together"):
        load_tables(TASK, tmp_path)


def test_a_split_is_one_file_or_several(tmp_path: Path):
    shard(tmp_path, 0, 1, ROWS)
    (tmp_path / "train.csv").write_text("text,label\na,0\n")
    with pytest.raises(DataError, match="the split `train` more than once"):
        load_tables(TASK, tmp_path)


def test_the_folder_of_a_data_set_s_files_is_named(tmp_path: Path):
    (tmp_path / "data").mkdir()
    shard(tmp_path / "data", 0, 1, ROWS)
    with pytest.raises(DataError) as caught:
        load_tables(TASK, tmp_path)
    assert caught.value.hint == f"--data {tmp_path / 'data'}"
    assert len(load_tables(TASK, tmp_path / "data").parts["train"]) == len(ROWS)
