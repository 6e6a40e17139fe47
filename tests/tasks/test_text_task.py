"""Rows to batches: every row once, little padding, the same order for the same seed; bad data is refused up front."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.tasks_sample import recipe_of

from rmtkd_edge.config.recipe import Analyse, Compress
from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, RunDirError, UserError
from rmtkd_edge.tasks import text_classification as text
from rmtkd_edge.tasks import texts
from rmtkd_edge.tasks.base import Dataset
from rmtkd_edge.tasks.reading.labels import label_names, label_numbers, with_names
from rmtkd_edge.tasks.reading.sequences import Special, padded
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer
from rmtkd_edge.tasks.subsets import draw_subsets
from rmtkd_edge.tasks.texts import TextSplit

PAD = 7
TEXT = text.TASK


def batches(split: TextSplit, size: int, seed: int | None):
    tokenizer = SimpleNamespace(pad_token_id=PAD, all_special_ids=[PAD, 100])
    return TEXT.batches(Dataset("t", ("0", "1", "2"), split, split, None, tokenizer), split, size, seed)


def split_of(lengths: list[int], pairs: bool = False) -> TextSplit:
    ids = [[100 + i] * n for i, n in enumerate(lengths)]
    types = [[0] * (n // 2) + [1] * (n - n // 2) for n in lengths] if pairs else None
    return TextSplit(ids, types, np.arange(len(lengths)) % 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=70),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(0, 99)),
    st.booleans(),
)
def test_every_row_comes_once_and_whole(lengths, size, seed, pairs):
    split = split_of(lengths, pairs)
    seen, count = [], 0
    for batch in batches(split, size, seed):
        count += 1
        assert {v.dtype for v in batch.values()} == {torch.int64}
        longest = max(lengths[i] for i in batch["index"])
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(batch["index"]), longest)
        for row, i in enumerate(batch["index"].tolist()):
            n = lengths[i]
            assert batch["input_ids"][row].tolist() == split.ids[i] + [PAD] * (longest - n)
            assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (longest - n)
            assert batch["labels"][row] == split.labels[i]
            special = [int(t in (PAD, 100)) for t in batch["input_ids"][row].tolist()]
            assert batch["special_tokens_mask"][row].tolist() == special
            wanted = split.type_ids[i] if split.type_ids else [0] * n
            assert batch["token_type_ids"][row, :n].tolist() == wanted
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(len(lengths))) and count == -(-len(lengths) // size)


def order(split: TextSplit, size: int, seed: int | None) -> list[list[int]]:
    return [b["index"].tolist() for b in batches(split, size, seed)]


def test_the_seed_decides_the_order_and_nothing_else_does():
    lengths = np.random.default_rng(0).integers(3, 60, 500).tolist()
    split = split_of(lengths)
    torch.manual_seed(1)
    first = order(split, 8, 5)
    torch.manual_seed(2)
    np.random.seed(3)
    assert order(split, 8, 5) == first != order(split, 8, 6)
    assert order(split, 8, None) == order(split, 8, None)
    flat = [lengths[i] for group in order(split, 8, None) for i in group]
    assert flat == sorted(flat)


def test_batches_of_like_length_pad_far_less_than_random_ones():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 60, 2000)
    split = split_of(lengths.tolist())
    filled = sum(b["input_ids"].numel() for b in batches(split, 16, 0)) / lengths.sum() - 1
    shuffled = rng.permutation(2000).reshape(-1, 16)
    naive = sum(16 * lengths[g].max() for g in shuffled) / lengths.sum() - 1
    assert filled < 0.2 * naive


def test_the_order_of_lengths_is_random_over_an_epoch():
    lengths = np.random.default_rng(0).integers(3, 60, 2000).tolist()
    means = [np.mean([lengths[i] for i in group]) for group in order(split_of(lengths), 16, 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_taking_rows_keeps_them_as_they_are():
    split = split_of([3, 1, 4, 1, 5], pairs=True)
    part = split.take(np.array([4, 0]))
    assert part.ids == [split.ids[4], split.ids[0]] and part.labels.tolist() == [1, 0] and len(part) == 2
    assert part.type_ids == [split.type_ids[4], split.type_ids[0]]


@given(st.integers(1, 400), st.floats(0.01, 1), st.integers(1, 500), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_calibration_subset_is_seeded_sorted_and_large_enough(rows, fraction, minimum, seed):
    analyse = Analyse(calibration=fraction, minimum_rows=minimum, weighting_rows=5)
    recipe = recipe_of(TASK, seed=seed, analyse=analyse)
    drawn = draw_subsets(rows, recipe, lambda order: (7, 3))
    found = drawn.analysis
    assert len(found) == min(rows, max(minimum, round(fraction * rows)))
    assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < rows
    assert (found == draw_subsets(rows, recipe, lambda order: (7, 3)).analysis).all()
    assert set(drawn.trial) <= set(drawn.warm) and set(drawn.effect) <= set(found)
    assert set(drawn.warm) <= set(found) or set(found) < set(drawn.warm)  # the rest of train comes after the subset
    assert len(drawn.effect) == min(5, len(found))
    assert not set(drawn.judged) & set(drawn.trial) or rows <= 3
    assert (len(drawn.warm), len(drawn.trial)) == tuple(min(n, rows) for n in (7, 3))


@pytest.mark.parametrize(("least", "most", "taken"), [(20, 50, 50), (20, 5000, 420), (100, 50, 100)])
def test_spectra_take_no_more_rows_than_asked_and_the_warm_start_is_not_touched(least, most, taken):
    split = split_of(np.random.default_rng(0).integers(3, 20, 600).tolist())
    data = Dataset("t", ("0", "1", "2"), split, split, None, None, max_length=20)
    rows = {"calibration": 0.7, "minimum_rows": least, "weighting_rows": 128}  # 420 of 600
    found, whole = (
        TEXT.subsets(data, recipe_of(TASK, analyse=Analyse(**a), compress=Compress(warm_start_tokens=900)))
        for a in ({**rows, "maximum_rows": most}, rows)
    )
    assert len(found.analysis) == taken and set(found.analysis) <= set(whole.analysis)
    assert found.warm.tolist() == whole.warm.tolist() and found.effect.tolist() == whole.effect.tolist()
    assert 900 <= sum(len(split.ids[i]) for i in found.warm) < 920


# --- from a table to a task ---


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer(str(tiny_tokenizer))


TASK = Task(name="t", text=["text"], max_length=12, validation_fraction=0.25, test_fraction=0)
ROWS = [{"text": f"the film was {'great' if i % 2 else 'dull'} " * (1 + i % 9), "label": i % 2} for i in range(40)]


def save(path, rows) -> None:
    pyarrow.parquet.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)


def load(tmp_path, tokenizer, rows, validation=None, task=TASK, seed=0):
    save(tmp_path / "train.parquet", rows)
    if validation is not None:
        save(tmp_path / "validation.parquet", validation)
    return TEXT.load(recipe_of(task, tokenizer.name_or_path, seed), tmp_path)


def test_a_held_out_split_is_seeded_and_disjoint(tmp_path, tokenizer):
    rows = [{**row, "text": f"{row['text']} {'plot ' * i}"} for i, row in enumerate(ROWS)]
    found = load(tmp_path, tokenizer, rows)
    assert len(found.validation) == 10 and len(found.train) == 30
    everything = tokenizer([row["text"] for row in rows], truncation=True, max_length=12)["input_ids"]
    assert sorted([*found.train.ids, *found.validation.ids]) == sorted(everything)
    again = load(tmp_path, tokenizer, rows)
    assert again.validation.ids == found.validation.ids
    assert load(tmp_path, tokenizer, rows, seed=1).validation.ids != found.validation.ids


def test_digests_follow_texts_labels_and_names(tmp_path, tokenizer):
    first = load(tmp_path, tokenizer, ROWS, ROWS[:6]).digests
    assert first.keys() == {"train", "validation"}
    assert load(tmp_path, tokenizer, ROWS, ROWS[:6]).digests == first
    changed = load(tmp_path, tokenizer, ROWS, [{**ROWS[0], "text": "plot"}, *ROWS[1:6]]).digests
    assert changed["train"] == first["train"] and changed["validation"] != first["validation"]
    for update in ({"labels": ["no", "yes"]}, {"max_length": 6}):
        other = load(tmp_path, tokenizer, ROWS, ROWS[:6], TASK.model_copy(update=update)).digests
        assert all(other[role] != first[role] for role in first)


def test_ids_have_special_tokens_and_are_cut_off(tmp_path, tokenizer):
    found = load(tmp_path, tokenizer, ROWS, ROWS[:6])
    for ids in found.train.ids:
        assert len(ids) <= 12 and ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert max(map(len, found.train.ids)) == 12 and found.train.type_ids is None
    assert len(found.validation) == 6 and found.train.labels.dtype == np.int64 and found.max_length == 12


def test_pairs_have_type_ids(tmp_path, tokenizer):
    rows = [{"a": row["text"], "b": "the plot", "label": row["label"]} for row in ROWS]
    found = load(tmp_path, tokenizer, rows, task=TASK.model_copy(update={"text": ["a", "b"], "max_length": 16}))
    assert found.train.type_ids is not None and all(t[0] == 0 and t[-1] == 1 for t in found.train.type_ids)
    assert [len(t) for t in found.train.type_ids] == [len(i) for i in found.train.ids]


def test_limits_take_a_seeded_part(tmp_path, tokenizer):
    task = TASK.model_copy(update={"train_limit": 11, "validation_limit": 3})
    found = load(tmp_path, tokenizer, ROWS, ROWS, task=task)
    assert len(found.train) == 11 and len(found.validation) == 3


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        ([0, 1, 2], ["0", "1", "2"], [0, 1, 2]),
        ([4, 2, 2], ["2", "4"], [1, 0, 0]),
        (["pos", "neg", "pos"], ["neg", "pos"], [1, 0, 1]),
        ([10, 9, 9], ["9", "10"], [1, 0, 0]),
        ([True, False, True], ["False", "True"], [1, 0, 1]),
    ],
)
def test_labels_that_the_recipe_does_not_name_are_sorted(values, names, numbers):
    table = pa.table({"text": ["a"] * 3, "label": values})
    assert label_names(TASK, table) == names
    assert label_numbers(TASK, table, "train", names).tolist() == numbers


def test_the_recipe_s_names_come_before_the_file_s_and_both_before_the_values():
    table = with_names(pa.table({"text": ["a", "b"], "label": [0, 1]}), "label", ["down", "up"])
    assert label_names(TASK, table) == ["down", "up"]
    task = TASK.model_copy(update={"labels": ["no", "yes"]})
    assert label_names(task, table) == ["no", "yes"]
    for values in ([1, 0], ["yes", "no"], ["1", "0"]):
        assert label_numbers(task, pa.table({"label": values}), "train", ["no", "yes"]).tolist() == [1, 0]


def test_names_that_are_numbers_are_never_taken_for_places():
    task = TASK.model_copy(update={"labels": ["1", "2", "3"]})
    assert label_numbers(task, pa.table({"label": [1, 3]}), "train", ["1", "2", "3"]).tolist() == [0, 2]
    with pytest.raises(DataError):
        label_numbers(task, pa.table({"label": [0, 1]}), "train", ["1", "2", "3"])


def changed(**kw):
    return [{**row, **{k: v(i) for k, v in kw.items()}} for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{"txt": "a", "lable": 0}, {"txt": "b", "lable": 1}],
            r"`text`; did you mean `txt`.*(?s:.)*`label`; did you mean `lable`",
        ),
        (pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), "no rows"),
        (changed(label=lambda i: 1), "fewer than two classes"),
        (changed(label=lambda i: -1), "hidden"),
        (changed(label=lambda i: None if i == 3 else i % 2), r"1 of 40 labels in train .* row 3 has none"),
        (changed(label=lambda i: None), "fewer than two classes"),
        (
            changed(label=lambda i: float("nan") if i == 3 else float(i % 2)),
            r"not finite: \S+ row 3 has nan",
        ),
        (changed(label=lambda i: [i % 2]), "a label is one text or number|holds list"),
        (changed(text=lambda i: None if i % 2 else "fine"), r"20 of|15 of|are no text"),
        (changed(text=lambda i: i), "is a int"),
        (changed(text=lambda i: float("nan")), "is a float"),
        (changed(text=lambda i: ["a", "b"]), "is a list"),
    ],
)
def test_data_that_cannot_be_used_is_refused_with_a_reason(tmp_path, tokenizer, rows, says):
    with pytest.raises(DataError, match=says) as caught:
        load(tmp_path, tokenizer, rows)
    assert caught.value.hint


def test_labels_out_of_range_name_the_row(tmp_path, tokenizer):
    task = TASK.model_copy(update={"labels": ["no", "yes"]})
    with pytest.raises(DataError, match=r"1 of 6 labels in validation .* row 4 has 2"):
        load(tmp_path, tokenizer, ROWS, [{**row, "label": 2 if i == 4 else 0} for i, row in enumerate(ROWS[:6])], task)
    with pytest.raises(DataError, match="labels are hidden"):
        load(tmp_path, tokenizer, ROWS, [{**row, "label": -1} for row in ROWS[:6]], task)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 1.0])
def test_a_held_out_split_with_an_empty_side_is_refused(tmp_path, tokenizer, fraction):
    with pytest.raises(DataError, match="leaves a side empty"):
        load(tmp_path, tokenizer, ROWS, task=TASK.model_copy(update={"validation_fraction": fraction}))


def test_whole_floats_are_numbers_and_minus_one_is_a_class_where_it_is_named(tmp_path, tokenizer):
    for name in "ab":
        (tmp_path / name).mkdir()
    floats = load(tmp_path / "a", tokenizer, changed(label=lambda i: float(i % 2)))
    assert floats.labels == ("0", "1")
    task = TASK.model_copy(update={"labels": ["-1", "1"]})
    signs = load(tmp_path / "b", tokenizer, changed(label=lambda i: 2 * (i % 2) - 1), task=task)
    assert signs.labels == ("-1", "1") and sorted(set(signs.train.labels.tolist())) == [0, 1]


def test_rows_without_tokens_are_refused(tmp_path, tokenizer, monkeypatch):
    class Bare:
        def __call__(self, *columns, **options):
            return {"input_ids": [[] if not t else [1] for t in columns[0]]}

    monkeypatch.setattr(texts, "load_tokenizer", lambda source: Bare())
    with pytest.raises(DataError, match="have no tokens"):
        load(tmp_path, tokenizer, changed(text=lambda i: "" if i == 2 else "fine"))


def test_padding_is_on_the_right():
    batch = padded([[5, 6], [7]], [[0, 1], [1]], Special(9, (9, 5)))
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1], [1, 0]]
    assert batch["special_tokens_mask"].tolist() == [[1, 0], [0, 1]]


# --- exported ---


def test_exports_are_verified_in_the_shapes_where_they_break():
    held_out = list(batches(split_of([4, 9, 6, 5]), 3, None))
    spec = SimpleNamespace(inputs=[SimpleNamespace(name=n) for n in ("input_ids", "attention_mask")], max_length=40)
    found = TEXT.verification_batches(held_out, spec, max_length=16)
    assert [tuple(b["input_ids"].shape) for b in found] == [(3, 6), (1, 9), (1, 9), (1, 3), (3, 16), (2, 16)]
    assert all(set(b) == {"input_ids", "attention_mask"} for b in found)
    assert found[4]["attention_mask"].sum(1).tolist() == [4, 9, 4] and found[5]["attention_mask"].all()
    assert TEXT.verification_batches(held_out, spec)[-1]["input_ids"].shape == (2, 40)
    with pytest.raises(DataError, match="no held-out rows"):
        TEXT.verification_batches([], spec)


def test_a_predictor_takes_texts_and_pairs(tmp_path, tokenizer):
    dataset = load(tmp_path, tokenizer, ROWS)
    TEXT.save_preprocessing(dataset, tmp_path / "kept")
    seen = []

    def run(batch):
        seen.append(batch)
        return np.stack([-batch["input_ids"].sum(1).numpy(), batch["token_type_ids"].sum(1).numpy()], 1)

    record = SimpleNamespace(labels=("no", "yes"), max_length=12)
    predictor = TEXT.predictor(tmp_path / "kept", record, run)
    assert predictor.predict(["the film", "great " * 50, "dull"], batch_size=2).labels == ["yes"] * 3
    assert [b["input_ids"].shape for b in seen] == [(2, 12), (1, 3)] and "special_tokens_mask" in seen[0]
    assert predictor.predict([("the film", "the plot")]).outputs[0, 1] == 3
    assert predictor.predict([]).outputs.shape == (0, 2)
    with pytest.raises(UserError, match="a list of texts"):
        predictor.predict("the film")


def test_what_was_kept_comes_before_the_recipe_s_tokenizer(tmp_path, tokenizer):
    dataset = load(tmp_path, tokenizer, ROWS)
    TEXT.save_preprocessing(dataset, tmp_path / "kept")
    again = TEXT.load(recipe_of(TASK, "nobody/has-this-model"), tmp_path, kept=tmp_path / "kept")
    assert again.train.ids == dataset.train.ids
    with pytest.raises(RunDirError, match="cannot write the tokenizer"):
        TEXT.save_preprocessing(dataset, tmp_path / "train.parquet")
