"""Tables as people have them: every encoding, delimiter, compression and orientation gives the same rows."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.labels import label_names
from rmtkd_edge.tasks.reading.places import columns, place
from rmtkd_edge.tasks.reading.sequences import check_table, check_texts
from rmtkd_edge.tasks.reading.tables import load_tables
from rmtkd_edge.tasks.reading.text_files import COMPRESSIONS

TASK = Task(name="t", text=["text"])


def plain(table: pa.Table) -> list[dict]:
    """Return the rows as their source has them."""
    return table.select(columns(table)).to_pylist()


def read(path: Path, **keys) -> pa.Table:
    return load_tables(TASK.model_copy(update=keys), path).parts["train"]


TEXT_ROWS = [{"text": "a naïve, bright film", "label": "yes"}, {"text": "dull; the end", "label": "no"}]


def csv_of(rows: list[dict], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl"])
def test_byte_order_marks_name_the_encoding(tmp_path: Path, ending: str, encoding: str):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in TEXT_ROWS)
    content = {".csv": csv_of(TEXT_ROWS), ".json": json.dumps(TEXT_ROWS, ensure_ascii=False), ".jsonl": lines}[ending]
    (tmp_path / f"train{ending}").write_bytes(content.encode(encoding))
    assert plain(read(tmp_path)) == TEXT_ROWS


def test_another_encoding_is_named_by_the_recipe(tmp_path: Path):
    (tmp_path / "train.csv").write_bytes(csv_of(TEXT_ROWS).encode("cp1252"))
    with pytest.raises(DataError, match=r"train\.csv is not UTF-8: line 2 .*naïve") as caught:
        read(tmp_path)
    assert "task.encoding=cp1252" in caught.value.hint
    assert plain(read(tmp_path, encoding="cp1252")) == TEXT_ROWS
    with pytest.raises(ValidationError, match="no encoding `klingon`"):
        Task(name="t", text=["text"], encoding="klingon")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_tells_the_delimiter(tmp_path: Path, delimiter: str):
    (tmp_path / "train.csv").write_text(csv_of(TEXT_ROWS, delimiter), encoding="utf-8")
    assert plain(read(tmp_path)) == TEXT_ROWS


def test_a_delimiter_that_no_header_tells_is_the_recipe_s_or_excel_s(tmp_path: Path):
    (tmp_path / "train.csv").write_text(csv_of(TEXT_ROWS, "~"), encoding="utf-8")
    assert plain(read(tmp_path, delimiter="~")) == TEXT_ROWS
    (tmp_path / "train.csv").write_text("sep=;\n" + csv_of(TEXT_ROWS, ";"), encoding="utf-8")
    assert plain(read(tmp_path)) == TEXT_ROWS


@pytest.mark.parametrize("name", ["train.CSV", "train.csv.gz", "train.csv.bz2", "train.csv.zst", "Train.Csv.GZ"])
def test_capitals_and_compression_change_nothing(tmp_path: Path, name: str):
    kind = COMPRESSIONS.get(Path(name).suffix.lower())
    with pa.CompressedOutputStream(str(tmp_path / name), kind) if kind else (tmp_path / name).open("wb") as stream:
        stream.write(csv_of(TEXT_ROWS).encode())
    assert plain(read(tmp_path / name)) == TEXT_ROWS
    if name.startswith("train"):
        assert plain(read(tmp_path)) == TEXT_ROWS


def test_compressed_json_lines_are_read(tmp_path: Path):
    with gzip.open(tmp_path / "train.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write("\n".join(json.dumps(row) for row in TEXT_ROWS))
    assert plain(read(tmp_path)) == TEXT_ROWS


@pytest.mark.parametrize(
    "value",
    [
        {"data": TEXT_ROWS},
        {"version": 1, "rows": TEXT_ROWS, "licence": ["none"]},
        {name: [row[name] for row in TEXT_ROWS] for name in ("text", "label")},
        {name: {str(i): row[name] for i, row in enumerate(TEXT_ROWS)} for name in ("text", "label")},
        {str(i): row for i, row in enumerate(TEXT_ROWS)},
        {"columns": ["text", "label"], "index": [0, 1], "data": [list(row.values()) for row in TEXT_ROWS]},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_tables_of_every_orientation_are_read(tmp_path: Path, value: dict, indent: int | None):
    (tmp_path / "train.json").write_text(json.dumps(value, indent=indent), encoding="utf-8")
    assert plain(read(tmp_path)) == TEXT_ROWS


def test_one_object_is_one_row(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text(json.dumps(TEXT_ROWS[0]), encoding="utf-8")
    assert plain(read(tmp_path)) == TEXT_ROWS[:1]


def test_columns_of_several_types_and_rows_with_other_keys_are_read(tmp_path: Path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "1", "x": [1]}, {"text": 3, "label": 0, "x": ["y"]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read(tmp_path)
    assert found["label"].to_pylist() == ["1", "1", "0"] and found["text"].to_pylist() == ["a", "b", "3"]
    assert label_names(TASK, found) == ["0", "1"]


def test_what_spreadsheets_leave_at_the_end_is_left_out(tmp_path: Path):
    content = "text,label,,\na film,yes,,\n\nthe end,no,,\n,,,\n,,,\n"
    (tmp_path / "train.csv").write_text(content, encoding="utf-8")
    assert plain(read(tmp_path)) == [{"text": "a film", "label": "yes"}, {"text": "the end", "label": "no"}]
    (tmp_path / "train.csv").write_text("text,label\na film,yes\n,\nthe end,no\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.csv line 3 is empty"):
        check_texts(TASK, read(tmp_path), "train")


@pytest.mark.parametrize(
    "values", [["2024", "007", "1e5"], ["2024-01-01", "2024-01-02", "x"], ["true", "false", "NaN"]]
)
def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path, values: list[str]):
    rows = [{"text": value, "label": f"0{1 + i % 2}"} for i, value in enumerate(values)]
    (tmp_path / "train.csv").write_text(csv_of(rows), encoding="utf-8")
    found = read(tmp_path)
    assert plain(found) == rows and label_names(TASK, found) == ["01", "02"]


def test_a_cell_may_be_longer_than_a_block(tmp_path: Path):
    rows = [{"text": "word " * 500_000, "label": "a"}, {"text": "b", "label": "b"}]
    (tmp_path / "train.csv").write_text(csv_of(rows), encoding="utf-8")
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert plain(read(tmp_path / "train.csv")) == plain(read(tmp_path / "train.jsonl")) == rows


def test_rows_keep_the_line_of_their_file(tmp_path: Path):
    (tmp_path / "train.csv").write_text('text,label\n"a\nfilm",yes\n\nb,no\n', encoding="utf-8")
    assert [place(read(tmp_path), i) for i in range(2)] == ["train.csv line 2", "train.csv line 5"]
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "other.parquet")
    assert place(read(tmp_path / "other.parquet").take([2]), 0) == "other.parquet row 2"


def test_a_message_lists_ten_and_a_count():
    table = pa.table({"text": ["a"] * 500, "label": [i + 0.5 for i in range(500)]})
    with pytest.raises(DataError, match="and 490 more") as caught:
        label_names(TASK, table)
    assert len(caught.value.message) < 400


def test_views_and_categories_of_parquet_are_read(tmp_path: Path):
    texts = pa.array([row["text"] for row in TEXT_ROWS], pa.string_view())
    labels = pa.array([row["label"] for row in TEXT_ROWS]).dictionary_encode()
    pyarrow.parquet.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "train.parquet")
    assert plain(read(tmp_path).take([1, 0])) == TEXT_ROWS[::-1]


@pytest.mark.parametrize("header", ["TEXT,Label", " text, label", "Texts,labels"])
def test_a_header_that_is_nearly_right_is_offered(tmp_path: Path, header: str):
    (tmp_path / "train.csv").write_text(f"{header}\na,b\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        check_table(TASK, read(tmp_path), "train", ["label"])
    assert all(f"did you mean `{name}`" in caught.value.message for name in header.split(","))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.csv", b"PK\x03\x04" + bytes(60), "a zip archive, as Excel files are"),
        ("train.csv", b"\xd0\xcf\x11\xe0" + bytes(60), "Excel file"),
        ("train.csv", gzip.compress(b"text,label\n", mtime=0), "compressed by gzip"),
        ("train.jsonl", b"PAR1\x15" + bytes(60), "a Parquet file"),
        ("train.xlsx", b"PK\x03\x04", "ending '.xlsx' is not known"),
        ("train.csv.zip", b"PK\x03\x04", r"ending '.csv.zip' is not known"),
    ],
    ids=["zip", "old Excel", "gzip", "Parquet", "Excel by its ending", "csv.zip"],
)
def test_files_of_another_kind_are_told_as_what_they_are(tmp_path: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    for data in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=says) as caught:
            read(data)
        assert caught.value.hint


@pytest.mark.parametrize("start", ["\n\n", "sep=,\n"])
def test_lines_are_those_of_the_file_whatever_comes_before_the_header(tmp_path: Path, start: str):
    (tmp_path / "train.csv").write_text(f"{start}text,label\na,1\nb,0\n", encoding="utf-8")
    line = start.count("\n") + 3
    assert place(read(tmp_path), 1) == f"train.csv line {line}"
    (tmp_path / "train.csv").write_text(f'{start}text,label\na,1\n"b" c,0\n', encoding="utf-8")
    with pytest.raises(DataError, match=f"line {line}: "):
        read(tmp_path)


def test_texts_that_a_writer_left_as_bytes_are_texts(tmp_path: Path):
    rows = pa.table({"text": ["na\u00efve".encode(), b"dull"], "label": [b"yes", b"no"]})
    pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
    found = read(tmp_path)
    assert plain(found) == [{"text": "na\u00efve", "label": "yes"}, {"text": "dull", "label": "no"}]
    assert check_texts(TASK, found, "train") == () and label_names(TASK, found) == ["no", "yes"]
    pyarrow.parquet.write_table(pa.table({"text": [b"\xff\xfe"], "label": [b"yes"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"`text` of .* holds bytes that are not UTF-8"):
        read(tmp_path)


def test_texts_without_any_sign_are_told(tmp_path: Path):
    (tmp_path / "train.csv").write_text('text,label\na,1\n"  ",0\n\t,0\n', encoding="utf-8")
    (note,) = check_texts(TASK, read(tmp_path), "train")
    assert "2 of 3 values of `text` in train" in note and "train.csv line 3" in note


def test_large_json_lines_are_read_in_chunks_that_agree_on_the_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rmtkd_edge.tasks.reading.objects.CHUNK", 2)
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "c", "label": 0.5, "more": "x"}]
    others = [*rows, {"text": "d", "label": "1"}, {"text": "e", "label": True}]
    for values, wanted in ((rows, [0, 1, 0.5]), (others, ["0", "1", "0.5", "1", "true"])):
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
        found = read(tmp_path)
        assert found["label"].to_pylist() == wanted and found["more"].to_pylist()[:3] == [None, None, "x"]
    assert place(found, 4) == "train.jsonl line 5"


def test_json_is_bounded_in_size_and_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    deep = '{"text": "a", "label": ' + "[" * 100 + "]" * 100 + "}"
    (tmp_path / "train.jsonl").write_text(f'{{"text": "a", "label": 1}}\n{deep}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is no JSON object"):
        read(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.json").write_text(f"[{deep}]", encoding="utf-8")
    with pytest.raises(DataError, match="nested too deep"):
        read(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps(TEXT_ROWS * 20, indent=1), encoding="utf-8")
    monkeypatch.setattr("rmtkd_edge.tasks.reading.objects.LARGEST", 1000)
    with pytest.raises(DataError, match="one JSON value of more than 1,000 characters") as caught:
        read(tmp_path)
    assert ".jsonl" in caught.value.hint
    monkeypatch.setattr("rmtkd_edge.tasks.reading.text_files.LONGEST_LINE", 50)
    with pytest.raises(DataError, match="a line of more than 50 characters"):
        (tmp_path / "train.json").write_text(json.dumps(TEXT_ROWS), encoding="utf-8")
        read(tmp_path)
