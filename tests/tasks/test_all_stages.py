"""Tasks that label texts otherwise than by one label: from files to a report, and what other clients read."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tomli_w
from sentences_sample import BAD, GOOD, PLAIN

import rmtkd_edge
from rmtkd_edge.cli import app as cli
from rmtkd_edge.run.directory import Run

pytestmark = pytest.mark.slow

TEXTS = ["the film was great and warm", "a dull plot with awful music", "some scenes of a story", "great but poor cast"]


def sentences(count: int, seed: int) -> list[str]:
    """Return texts with up to three good words, bad words, or both."""
    rng = np.random.default_rng(seed)
    parts = (sorted(GOOD), 2), (sorted(BAD), 2), (PLAIN, 8)
    drawn = (
        [str(w) for words, most in parts for w in rng.choice(words, rng.integers(0, most + 1))] for _ in range(count)
    )
    return [" ".join(rng.permutation([*words, "film"])) for words in drawn]


def tags(text: str) -> list[str]:
    return [name for name, words in (("bad", BAD), ("good", GOOD)) if {*text.split()} & {*words}]


def praise(text: str) -> float:
    return 2.5 + 0.5 * sum((word in GOOD) - (word in BAD) for word in text.split())


KINDS = {
    "multi-label": ({"text": ["text"], "label": "tags"}, lambda text: {"text": text, "tags": tags(text)}),
    "regression": (
        {"text": ["first", "second"], "label": "score"},
        lambda text: {"first": text, "second": "the plot", "score": praise(text)},
    ),
}
PROBLEMS = {"multi-label": "multi_label_classification", "regression": "regression"}


def call(capsys, *argv: str | Path) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main([str(part) for part in argv])
    out, err = capsys.readouterr()
    assert left.value.code == 0, err
    return out


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory, tiny_recipe_dict):
    """The kind of a task, and the run of it that is compressed and exported."""
    task, row = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    for split, count in (("train", 600), ("validation", 150), ("test", 150)):
        rows = [row(text) for text in sentences(count, len(split))]
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    recipe = {**tiny_recipe_dict, "task": {**tiny_recipe_dict["task"], "kind": request.param, **task}}
    recipe["train"] = {**recipe["train"], "epochs": 6}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    for argv in (
        ("compress", folder / "recipe.toml", "--data", folder, "--out", folder / "run"),
        ("export", folder / "run"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main([str(part) for part in argv])
        assert left.value.code == 0
    return request.param, folder / "run"


def above_zero(logits):
    return [[name for name, logit in zip(("bad", "good"), row, strict=True) if logit > 0] for row in logits]


def items(kind):
    return TEXTS if kind == "multi-label" else [(text, "the plot") for text in TEXTS]


def test_a_student_learns_the_task_and_its_record_holds_every_metric(made):
    kind, run = made
    record = json.loads((run / "compress/result.json").read_text())
    task = rmtkd_edge.tasks.base.find_task(kind)
    scores = record["student"]["test"]
    assert scores["primary"] == task.known_metrics[0] and set(scores["values"]) == set(task.known_metrics)
    assert scores["values"][scores["primary"]] > 0.8 and scores["percent"] == (kind == "multi-label")
    assert scores["interval"][0] <= scores["values"][scores["primary"]] <= scores["interval"][1]
    Run.open(run).verify()


def test_config_and_card_say_what_the_outputs_mean(made):
    kind, run = made
    names = ["bad", "good"] if kind == "multi-label" else ["score"]
    for folder in ("export", "baseline"):
        config = json.loads((run / folder / "config.json").read_text())
        assert config["problem_type"] == PROBLEMS[kind]
        assert config["id2label"] == {str(i): name for i, name in enumerate(names)}
    card = (run / "export/README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert ("Any number of: bad, good" in card) == (kind == "multi-label")
    assert ("One number: score" in card) == (kind == "regression")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_loaded_models_answer_as_the_task_does(made, precision):
    kind, run = made
    found = rmtkd_edge.load(run, precision=precision).predict(items(kind))
    if kind == "multi-label":
        assert found.labels == above_zero(found.outputs) and found.outputs.shape == (4, 2)
        assert found.labels[0] != found.labels[1]
    else:
        assert found.labels == found.outputs[:, 0].tolist()
        assert found.labels[0] > found.labels[3] > found.labels[1]
    torch = rmtkd_edge.load(run, backend="torch").predict(items(kind))
    if precision == "fp32":
        np.testing.assert_allclose(found.outputs, torch.outputs, atol=1e-4)


def test_the_code_of_the_card_runs_and_gives_the_same_logits(made):
    kind, run = made
    parts = (run / "export/README.md").read_text().split("```python\n")[1:]
    onnxruntime, own = (part.split("```")[0] for part in (parts[0], parts[-1]))
    names: dict = {}
    for code in (onnxruntime, own):
        exec(code.replace("path/to/this/folder", str(run / "export")).replace("a text", TEXTS[0]), names)
    logits = names["logits"]
    if kind == "multi-label":
        assert names["labels"] == above_zero(logits)
    else:
        assert names["numbers"] == pytest.approx(logits[:, 0].tolist())


def test_transformers_pipeline_reads_the_original_as_we_do(made):
    from transformers import pipeline

    kind, run = made
    ours = rmtkd_edge.load(run / "baseline").predict(items(kind))
    answer = pipeline("text-classification", str(run / "baseline"), device="cpu")
    for text, logits in zip(TEXTS, ours.outputs, strict=True):
        given = text if kind == "multi-label" else {"text": text, "text_pair": "the plot"}
        found = answer([given], top_k=None)[0]
        found = {each["label"]: each["score"] for each in found}
        wanted = 1 / (1 + np.exp(-logits)) if kind == "multi-label" else logits
        assert found == pytest.approx(dict(zip(ours_labels(run), wanted.tolist(), strict=True)), abs=1e-4)


def ours_labels(run: Path) -> list[str]:
    return list(json.loads((run / "baseline/rmtkd.json").read_text())["labels"])


def test_an_exported_original_is_a_source_of_its_own_task(made, capsys, tmp_path):
    kind, run = made
    data, recipe, base = run.parent, run.parent / "recipe.toml", run / "baseline"
    again = ("--set", f"model.source={base}", "--set", f"model.tokenizer={base}", "--one-shot")
    call(capsys, "compress", recipe, "--data", data, "--out", tmp_path / "run", *again, "--set", "stop.max_drop=1.0")
    teacher = json.loads((tmp_path / "run/compress/teacher/teacher.json").read_text())
    assert not teacher["trained"]
    other = ("--set", "task.kind=text-classification", "--set", "task.label=kind")
    for split in ("train", "validation", "test"):
        table = pyarrow.parquet.read_table(data / f"{split}.parquet")
        table = table.append_column("kind", [["a" if i % 2 else "b" for i in range(len(table))]])
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(SystemExit) as left:
        cli.main(
            [str(part) for part in ("compress", recipe, "--data", tmp_path, "--out", tmp_path / "b", *again, *other)]
        )
    assert left.value.code == 2 and f"task.kind = {kind}" in capsys.readouterr().err


def test_profile_and_report_know_the_task(made, capsys):
    kind, run = made
    measured = json.loads(
        call(
            *(capsys, "profile", run, "--on", "local-cpu", "--seq-len", "16", "--batch-size", "1", "--quick"),
            *("--iterations", "5", "--duration", "0", "--json"),
        )
    )
    assert {result["label"] for result in measured["results"]} >= {"rmt-kd fp32", "original fp32"}
    page = Path(call(capsys, "report", run).splitlines()[0]).read_text(encoding="utf-8")
    assert ("F1 micro" if kind == "multi-label" else "Spearmanr") in page
    assert "ows without any label are learnt as such" in page or kind == "regression"
