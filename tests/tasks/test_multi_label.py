"""Sets of labels: every layout of a file gives the same, odd ones are refused, and metrics are scikit-learn's."""

import csv
import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from sklearn import metrics as theirs
from tasks.tasks_sample import recipe_of
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional as F

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import label_set_metrics as ours
from rmtkd_edge.tasks.base import find_task

MULTI = find_task("multi-label")
TASK = Task(name="t", kind="multi-label", text=["text"], label="tags", max_length=12)
SETS = [["good"], ["bad", "good"], [], ["odd"]] * 10
TEXTS = [f"the film was {'great' if i % 2 else 'dull'}" for i in range(len(SETS))]
NAMES = ("bad", "good", "odd")


def load(folder, tokenizer, task=TASK):
    return MULTI.load(recipe_of(task, str(tokenizer)), folder)


def write_parquet(folder, tags, name="train"):
    pyarrow.parquet.write_table(pa.table({"text": TEXTS[: len(tags)], "tags": tags}), folder / f"{name}.parquet")


def write_jsonl(folder, tags, name="train"):
    lines = [json.dumps({"text": text, "tags": row}) for text, row in zip(TEXTS, tags, strict=False)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def write_csv(folder, rows, name="train"):
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


def separated(sets):
    return [["text", "tags"], *([text, "| ".join(row)] for text, row in zip(TEXTS, sets, strict=True))]


def columns(cell=lambda has: int(has)):
    rows = ([text, *(cell(name in row) for name in NAMES)] for text, row in zip(TEXTS, SETS, strict=True))
    return [["text", *NAMES], *rows]


LAYOUTS = {
    "parquet": (write_parquet, SETS, {}),
    "jsonl": (write_jsonl, SETS, {}),
    "separator": (write_csv, separated(SETS), {"label_separator": "|"}),
    "columns": (write_csv, columns(), {"label_columns": list(NAMES)}),
    "truths": (write_csv, columns(lambda has: str(has)), {"label_columns": list(NAMES)}),
    "fractions": (write_csv, columns(lambda has: f"{has:.1f}"), {"label_columns": list(NAMES)}),
    "places": (write_parquet, [[NAMES.index(name) for name in row] for row in SETS], {"labels": list(NAMES)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_sets(tmp_path, tiny_tokenizer, layout):
    write, content, settings = LAYOUTS[layout]
    write(tmp_path, content)
    task = TASK.model_copy(update={**settings, "validation_fraction": 0.25, "test_fraction": 0})
    found = load(tmp_path, tiny_tokenizer, task)
    assert found.labels == NAMES and len(found.train) == 30 and len(found.validation) == 10
    whole = np.concatenate([found.train.labels, found.validation.labels])
    assert whole.dtype == bool and whole.sum(0).tolist() == [10, 20, 10] and (~whole.any(1)).sum() == 10
    (batch,) = MULTI.batches(found, found.validation, 10, None)
    assert batch["labels"].shape == (10, 3) and batch["input_ids"].shape[0] == 10
    assert (MULTI.targets(batch) == found.validation.labels[batch["index"].numpy()]).all()


def test_names_and_order_that_datasets_keeps_in_a_parquet_file(tmp_path, tiny_tokenizer):
    feature = {"feature": {"names": ["odd", "good", "bad"], "_type": "ClassLabel"}, "_type": "List"}
    places = [[["odd", "good", "bad"].index(name) for name in row] for row in SETS]
    table = pa.table({"text": TEXTS, "tags": places}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"tags": feature}}})}
    )
    for name in ("train", "validation"):
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    found = load(tmp_path, tiny_tokenizer, TASK.model_copy(update={"test_fraction": 0}))
    assert found.labels == ("odd", "good", "bad")
    assert found.validation.labels[:4].tolist() == [
        [False, True, False],
        [False, True, True],
        [False] * 3,
        [True] + [False] * 2,
    ]


def test_a_summary_counts_labels_and_says_which_rows_have_none(tmp_path, tiny_tokenizer):
    write_jsonl(tmp_path, SETS)
    write_jsonl(tmp_path, [["good"], ["bad"], []], "validation")
    found = load(tmp_path, tiny_tokenizer, TASK.model_copy(update={"test_fraction": 0}))
    summary = MULTI.summary(found)
    assert summary.splits["train"].labels == {"bad": 10, "good": 20, "odd": 10}
    assert [row.label for row in summary.first_rows] == ["good", "bad, good"]
    assert "rows without any label are learnt as such: 10 of 40 in train, 1 of 3 in validation" in found.notes
    assert "validation has no rows of the labels odd" in found.notes


@pytest.mark.parametrize(
    ("tags", "settings", "says", "hint"),
    [
        (["a|b"] * 40, {}, r"holds large_string|holds string", "label_separator"),
        ([1, 0] * 20, {}, "holds int64, such as 1", "task.kind = text-classification"),
        (
            [["a"], ["b"], None, ["a"]] * 10,
            {},
            r"10 of 40 values .* missing \(first: train.parquet row 2\)",
            "empty list",
        ),
        ([["a"]] * 40, {}, "fewer than two classes", "task.label"),
        ([[]] * 40, {}, "fewer than two classes", "task.label"),
        ([["a", None], ["b"]] * 20, {}, "train.parquet row 0 has none", "drop"),
        ([[0.5], [1.5]] * 20, {}, "numbers with fractions", "regression"),
        ([[0, 1, 0], [1, 0, 0]] * 20, {}, "as if at a place for every label", "names of the labels"),
        ([[0, 1, 0]] * 40, {"labels": ["a", "b", "c"]}, "as if at a place for every label", "names of the labels"),
        ([["a"], ["b"], ["c"]] * 10, {"labels": ["a", "b"]}, r"10 of 30 labels .* row 2 has 'c'", "task.labels"),
        ([["a"], ["b"]] * 20, {"label": "tag"}, r"no column `tag`; did you mean `tags`", "task.label"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_the_row(tmp_path, tiny_tokenizer, tags, settings, says, hint):
    write_parquet(tmp_path, tags)
    with pytest.raises(DataError, match=says) as caught:
        load(tmp_path, tiny_tokenizer, TASK.model_copy(update=settings))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (lambda has: 2 if has else 0, r"`bad` in train are neither 0 nor 1: train.csv line 3 has '2'"),
        (lambda has: "" if has else 0, "train.csv line 3 is empty"),
        (lambda has: "nan" if has else 0, "line 3 has 'nan'"),
        (lambda has: 0, "no row of train has a label"),
    ],
)
def test_columns_that_hold_something_else_are_refused(tmp_path, tiny_tokenizer, cell, says):
    write_csv(tmp_path, columns(cell))
    with pytest.raises(DataError, match=says):
        load(tmp_path, tiny_tokenizer, TASK.model_copy(update={"label_columns": list(NAMES)}))


def test_hidden_columns_of_a_test_split_are_told(tmp_path, tiny_tokenizer):
    write_csv(tmp_path, columns())
    write_csv(tmp_path, columns(lambda has: -1), "test")
    with pytest.raises(DataError, match="neither 0 nor 1") as caught:
        load(tmp_path, tiny_tokenizer, TASK.model_copy(update={"label_columns": list(NAMES)}))
    assert "test_split" in caught.value.hint


def test_a_label_that_only_validation_has_is_unknown(tmp_path, tiny_tokenizer):
    write_jsonl(tmp_path, SETS)
    write_jsonl(tmp_path, [["good"], ["new"]], "validation")
    with pytest.raises(DataError, match=r"validation are none of bad, good, odd: validation.jsonl line 2 has 'new'"):
        load(tmp_path, tiny_tokenizer)


def test_a_metric_that_a_split_does_not_allow_is_refused(tmp_path, tiny_tokenizer):
    write_jsonl(tmp_path, SETS)
    write_jsonl(tmp_path, [["good"], ["bad"]], "validation")
    task = TASK.model_copy(update={"metric": "average_precision", "test_fraction": 0})
    with pytest.raises(DataError, match=r"no row has label number 2 .*labels: bad, good, odd"):
        load(tmp_path, tiny_tokenizer, task)


@pytest.mark.parametrize("columns", [["a"], ["a", "a"], ["a", "b"]])
def test_columns_of_labels_are_several_and_their_own_names(columns):
    with pytest.raises(ValueError, match="label_columns"):
        Task(name="t", kind="multi-label", text=["text"], label_columns=columns, labels=["x", "y"])


# --- loss and divergence ---


def drawn(seed, rows=50, labels=4):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 2, (rows, labels)), 1)  # with ties
    return logits, rng.random((rows, labels)) < 1 / (1 + np.exp(-logits / 2))


def test_the_loss_is_that_of_independent_labels():
    logits, targets = drawn(0)
    batch = {"labels": torch.from_numpy(targets)}
    wanted = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), batch["labels"].double()) * logits.shape[1]
    torch.testing.assert_close(MULTI.loss(torch.from_numpy(logits), batch).double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_the_sum_over_labels(temperature):
    old, new = (torch.from_numpy(drawn(seed)[0]) for seed in (0, 1))
    both = (Bernoulli(logits=logits / temperature) for logits in (old, new))
    wanted = temperature**2 * kl_divergence(*both).sum(1).mean()
    torch.testing.assert_close(MULTI.divergence(old, new, temperature), wanted)
    extreme = torch.tensor([[200.0, -200.0]], requires_grad=True)
    MULTI.divergence(-extreme.detach(), extreme).backward()
    assert extreme.grad.isfinite().all()


# --- figures ---


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_scikit_learns(seed):
    logits, targets = drawn(seed)
    answers = logits > 0
    wanted = {
        "f1_micro": theirs.f1_score(targets, answers, average="micro", zero_division=0),
        "f1_macro": theirs.f1_score(targets, answers, average="macro", zero_division=0),
        "average_precision": theirs.average_precision_score(targets, logits, average="macro"),
        "subset_accuracy": theirs.accuracy_score(targets, answers),
    }
    assert ours.label_set_metrics(logits, targets) == pytest.approx(wanted)
    targets[:, 1] = answers[:, 1] = False
    found = ours.label_set_metrics(np.where(answers, 1.0, -1.0), targets)
    assert "average_precision" not in found and ours.interval("average_precision", logits, targets) is None
    assert found["f1_macro"] == pytest.approx(theirs.f1_score(targets, answers, average="macro", zero_division=0))


def test_a_drawn_row_counts_as_often_as_it_was_drawn():
    logits, targets = drawn(5, rows=30)
    times = np.random.default_rng(0).integers(0, 4, 30)
    rows = np.repeat(np.arange(30), times)
    weights = times[None].astype(float)
    for name in ("f1_micro", "f1_macro"):
        found = ours._f1(name, logits > 0, targets, weights)
        assert found[0] == pytest.approx(ours.label_set_metrics(logits[rows], targets[rows])[name])
    found = ours._average_precision(logits, targets, iter(weights))
    assert found[0] == pytest.approx(ours.label_set_metrics(logits[rows], targets[rows])["average_precision"])


@pytest.mark.parametrize("metric", ours.KNOWN)
def test_intervals_hold_the_figure_and_narrow_with_more_rows(metric):
    widths = []
    for rows in (60, 960):
        logits, targets = drawn(1, rows)
        low, high = ours.interval(metric, logits, targets, 3)
        assert low < ours.label_set_metrics(logits, targets)[metric] < high
        assert (low, high) == ours.interval(metric, logits, targets, 3)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


@pytest.mark.parametrize("seed", range(5))
def test_the_baseline_is_the_best_of_all_constant_sets(seed):
    rng = np.random.default_rng(seed)
    targets = rng.random((40, 4)) < rng.random(4) * 0.9
    best: dict[str, float] = {}
    for constant in product([-1.0, 1.0], repeat=4):
        found = ours.label_set_metrics(np.tile(constant, (40, 1)), targets)
        best = {name: max(value, best.get(name, 0.0)) for name, value in found.items()}
    assert MULTI.baseline([targets[:10], targets[10:]], 4) == pytest.approx(best)


def test_a_metric_that_a_constant_reaches_in_full_has_no_baseline():
    targets = np.ones((5, 2), bool)
    assert MULTI.baseline([targets], 2) == {}
    assert "f1_micro" in MULTI.baseline([np.vstack([targets, [[False, True]]])], 2)


def test_predictions_are_lists_of_labels(tmp_path, tiny_tokenizer):
    write_jsonl(tmp_path, SETS)
    found = load(tmp_path, tiny_tokenizer)
    MULTI.save_preprocessing(found, tmp_path / "kept")
    outputs = np.array([[1.0, -1.0, 2.0], [-1.0, -1.0, -3.0]])
    predictor = MULTI.predictor(
        tmp_path / "kept",
        SimpleNamespace(labels=NAMES, max_length=12),
        lambda batch: outputs[: len(batch["input_ids"])],
    )
    assert predictor.predict(["the film", "a plot"]).labels == [["bad", "odd"], []]
    assert predictor.predict([]).outputs.shape == (0, 3)
