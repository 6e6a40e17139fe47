"""Numbers as targets: read and refused with the row, learnt in any unit, and scored as scipy and scikit-learn do."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from scipy import stats
from sklearn.metrics import r2_score
from tasks.tasks_sample import recipe_of
from torch.nn import functional as F

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks import number_metrics as ours
from rmtkd_edge.tasks.base import find_task

REGRESSION = find_task("regression")
TASK = Task(name="t", kind="regression", text=["a", "b"], label="score", max_length=12, test_fraction=0)
SCORES = [round(0.25 * (i % 21), 2) for i in range(40)]


def write(folder, scores, name="train"):
    rows = {"a": [f"the film was {'great' if i % 2 else 'dull'}" for i in range(len(scores))]}
    table = pa.table({**rows, "b": ["the plot"] * len(scores), "score": scores})
    pyarrow.parquet.write_table(table, folder / f"{name}.parquet")


def load(folder, tokenizer, **settings):
    return REGRESSION.load(recipe_of(TASK.model_copy(update=settings), str(tokenizer)), folder)


@pytest.mark.parametrize(
    "scores",
    [SCORES, [str(s) for s in SCORES], [f" {s} " for s in SCORES], pa.array(SCORES).cast(pa.decimal128(5, 2))],
    ids=["float", "text", "spaces", "decimal"],
)
def test_numbers_are_read_however_they_are_written(tmp_path, tiny_tokenizer, scores):
    for name in ("train", "validation"):
        write(tmp_path, scores, name)
    found = load(tmp_path, tiny_tokenizer)
    assert found.labels == ("score",) and found.train.labels.dtype == np.float32
    assert found.train.labels.tolist() == SCORES and found.train.type_ids is not None
    assert any("from 0 to 5, mean" in note and "divide" not in note for note in found.notes)
    summary = REGRESSION.summary(found)
    assert summary.splits["train"].labels == {} and [r.label for r in summary.first_rows] == ["score 0", "score 0.25"]


def test_large_numbers_are_told(tmp_path, tiny_tokenizer):
    write(tmp_path, [1000.0 * s for s in SCORES])
    assert any("divide numbers as large as these" in note for note in load(tmp_path, tiny_tokenizer).notes)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([float("nan"), *SCORES[1:]], r"1 of 40 values of `score` in train are no finite numbers: train.parquet row 0"),
        ([*SCORES[:-1], float("inf")], r"row 39 has inf"),
        ([*SCORES[:-1], 1e300], r"row 39 has 1e\+300"),
        ([*SCORES[:-1], None], r"row 39 is empty"),
        (["1.5", "good"] * 20, r"20 of 40 .* row 1 has 'good'"),
        ([True, False] * 20, "holds bool, and not numbers"),
        ([[1.0], [2.0]] * 20, "holds list"),
        ([3.5] * 40, r"all 40 values of `score` in train are 3.5"),
    ],
)
def test_what_is_no_number_is_refused_with_the_row(tmp_path, tiny_tokenizer, scores, says):
    write(tmp_path, scores)
    with pytest.raises(DataError, match=says) as caught:
        load(tmp_path, tiny_tokenizer)
    assert caught.value.hint


def test_hidden_and_constant_targets_of_other_splits_are_refused(tmp_path, tiny_tokenizer):
    write(tmp_path, SCORES)
    write(tmp_path, [-1.0] * 10, "test")
    with pytest.raises(DataError, match="in test are -1") as caught:
        load(tmp_path, tiny_tokenizer)
    assert "test_split" in caught.value.hint
    write(tmp_path, [2.0] * 10, "validation")
    with pytest.raises(DataError, match="in validation are 2"):
        load(tmp_path, tiny_tokenizer, test_split="")


def batches(folder, tokenizer, scale):
    write(folder, [scale * s for s in SCORES])
    found = load(folder, tokenizer)
    return found, next(REGRESSION.batches(found, found.train, 16, 0))


def test_losses_are_shares_of_the_variance_whatever_the_unit(tmp_path, tiny_tokenizer):
    found, batch = batches(tmp_path, tiny_tokenizer, 1.0)
    _, other = batches(tmp_path, tiny_tokenizer, 1000.0)
    targets, noise = batch["labels"][:, None], torch.randn(len(batch["labels"]), 1)
    assert batch["variance"].shape == batch["labels"].shape
    plain = REGRESSION.loss(targets + noise, {"labels": batch["labels"]})
    torch.testing.assert_close(plain, F.mse_loss(targets + noise, targets))
    scaled = REGRESSION.loss(targets + noise, batch)
    torch.testing.assert_close(scaled * found.train.labels.var(), plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(REGRESSION.loss(1000 * (targets + noise), other), scaled, rtol=1e-3, atol=0)
    moved = REGRESSION.divergence(targets, targets + noise, 2.0, batch)
    torch.testing.assert_close(moved, scaled, rtol=1e-4, atol=0)
    mean = found.train.labels.mean()
    everything = list(REGRESSION.batches(found, found.train, 64, None))
    constant = [REGRESSION.loss(torch.full((len(b["labels"]), 1), float(mean)), b) for b in everything]
    assert float(constant[0]) == pytest.approx(1.0, rel=1e-4)


def test_a_model_with_several_outputs_is_refused():
    batch = {"labels": torch.zeros(4), "index": torch.arange(4)}
    with pytest.raises(DataError, match=r"gives outputs \(4, 3\)"):
        REGRESSION.loss(torch.zeros(4, 3), batch)


# --- figures ---


def drawn(seed, rows=80):
    rng = np.random.default_rng(seed)
    targets = np.round(rng.normal(3, 1, rows), 1)  # with ties
    return np.round(0.5 * targets + rng.normal(0, 0.5, rows), 1), targets


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_scipys_and_scikit_learns(seed):
    outputs, targets = drawn(seed)
    wanted = {
        "spearmanr": stats.spearmanr(outputs, targets).statistic,
        "pearsonr": stats.pearsonr(outputs, targets).statistic,
        "r2": r2_score(targets, outputs),
    }
    assert ours.number_metrics(outputs, targets) == pytest.approx(wanted)
    parts = [outputs[:30, None], outputs[30:, None]], [targets[:30], targets[30:]]
    assert REGRESSION.metrics(*parts) == pytest.approx(wanted)


def test_a_constant_output_correlates_with_nothing_and_no_teacher_passes_with_it():
    _, targets = drawn(0)
    found = ours.number_metrics(np.full(len(targets), 0.1), targets)
    assert found["spearmanr"] == found["pearsonr"] == 0.0 and found["r2"] < 0
    blind = REGRESSION.baseline([targets], 1)
    assert all(found[name] <= blind[name] for name in ours.KNOWN)
    mean = ours.number_metrics(np.full(len(targets), targets.mean()), targets)
    assert mean == pytest.approx(blind)


def test_constant_targets_allow_no_metric():
    rows = [np.zeros((4, 1))], [np.full(4, 2.0)]
    assert REGRESSION.metrics(*rows) == {} == REGRESSION.baseline(rows[1], 1)
    assert "differ" in REGRESSION.why_missing("r2", *rows) and REGRESSION.interval("r2", *rows) is None


@pytest.mark.parametrize("metric", ours.KNOWN)
def test_intervals_hold_the_figure_and_narrow_with_more_rows(metric):
    widths = []
    for rows in (80, 1280):
        outputs, targets = drawn(2, rows)
        low, high = ours.interval(metric, outputs, targets, 1)
        assert low < ours.number_metrics(outputs, targets)[metric] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


def test_numbers_agree_within_a_hundredth_of_the_largest():
    a = np.array([[5.0], [1.0], [0.0], [-2.0]])
    assert REGRESSION.agreement(a, a + 0.04) == 1.0
    assert REGRESSION.agreement(a, a + np.array([[0.0], [0.1], [0.0], [0.0]])) == 0.75


def test_predictions_are_numbers(tmp_path, tiny_tokenizer):
    write(tmp_path, SCORES)
    found = load(tmp_path, tiny_tokenizer)
    REGRESSION.save_preprocessing(found, tmp_path / "kept")
    record = SimpleNamespace(labels=("score",), max_length=12)
    predictor = REGRESSION.predictor(
        tmp_path / "kept", record, lambda batch: np.full((len(batch["input_ids"]), 1), 1.5)
    )
    assert predictor.predict([("the film", "a plot"), ("a", "b")]).labels == [1.5, 1.5]
    assert predictor.predict([]).labels == []
