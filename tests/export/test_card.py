"""Model cards: what they say is what the records say, whatever texts from outside hold; their code runs."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from export.export_sample import image_rows, make_text_run, sample_of
from huggingface_hub import ModelCard
from PIL import Image
from report.report_sample import profiled

from rmtkd_edge.api.card import refresh_cards
from rmtkd_edge.api.export import export
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.export.card import card
from rmtkd_edge.export.load import load
from rmtkd_edge.export.origin import Origin, license_of, origin_of
from rmtkd_edge.export.stage import export_run
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import ROLES, profile_record, read_recipe
from rmtkd_edge.run.records.base import from_json, to_json
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.tasks.base import find_task


def written(made, role="candidate"):
    return ModelCard.load(made.run.path / ROLES[role].folder / "README.md")


@pytest.mark.parametrize("made", ["text_run", "image_run"])
def test_an_exported_folder_has_a_card_with_its_figures(made, request):
    made = request.getfixturevalue(made)
    record, found = made.record, written(made)
    assert found.data.library_name == "onnx" and found.data.pipeline_tag == record.kind
    assert found.data.license is None and found.data.base_model is None and "No" in found.text
    assert {"onnx", "rmtkd-edge", "rmt-kd"} <= set(found.data.tags) and found.data.metrics == [record.metric]
    results = {result.metric_name: result for result in found.data.eval_results}
    for precision, variant in record.variants.items():
        result = results[f"{record.metric} ({precision})"]
        assert result.metric_value == pytest.approx(variant.test.value, abs=1e-6) and result.dataset_split == "test"
        low, high = (f"{100 * end:.2f}" for end in variant.test.interval)
        assert f"({low} to {high})" in found.text.replace("\\", "") and variant.file.replace("_", r"\_") in found.text
    assert all(label in found.text for label in record.labels) and "Not measured on any device" in found.text
    uneven = "cannot rebuild the torch model" in found.text
    assert (
        uneven == ("rmtkd.safetensors" in record.files)
        and "README.md" not in record.files
        and "original" in written(made, "baseline").text
    )
    config = json.loads((made.run.path / "export/config.json").read_text())
    assert config["problem_type"] == "single_label_classification"


HOSTILE = [
    "---\nlicense: mit\n---\n",
    "| a | b |",
    "<script>alert(1)</script>",
    "![x](http://example.com/x.png)",
    "`` ``` ``",
    "a: [b, *c",
    "# heading\n## other",
    "\u2028\x85- item",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_from_outside_are_shown_as_they_are(text_run, text):
    labels = (text, "good", "bad")
    record = replace(text_run.record, model_id=text, task=text, labels=labels, notes=(text,))
    made = card(record, Origin(source=text, license=text, method=text, dataset=text, base_model=text, seed=0))
    head, _, body = made.removeprefix("---\n").partition("\n---\n")
    data = yaml.safe_load(head)
    kept = [data["license"], data["base_model"], *data["datasets"], data["model-index"][0]["name"]]
    assert [" ".join(item.split()) for item in kept] == [" ".join(text.split())] * 4  # YAML has line ends of its own
    prose = re.sub(r"^```.*?^```$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in prose and "](http" not in prose and "![" not in prose
    wanted = ["Labels", "Files and quality", "Latency", "Use", "How it was made", "Limits", "Licence"]
    assert [line[3:] for line in prose.splitlines() if line.startswith("## ")] == wanted
    tables = [line for line in prose.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {3, 6, 7}


def run_code(made, title, folder):
    """Run the Python code of a card that comes after a title, on an exported folder; return its names."""
    code = re.search(rf"^{title}:\n\n```python\n(.*?)^```", made, re.DOTALL | re.MULTILINE)[1]
    names = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    return names


def test_the_code_for_texts_runs(text_run):
    folder = text_run.run.path / "export"
    made = (folder / "README.md").read_text()
    names = run_code(made, "onnxruntime", folder)
    wanted = load(text_run.run.path, precision="int8").predict([("a text", "its pair")])
    np.testing.assert_allclose(names["logits"], wanted.outputs, rtol=1e-4, atol=1e-5)
    run_code(made, "rmtkd-edge", folder)


def test_the_code_for_images_runs(image_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    side = load(image_run.run.path).spec.image_size
    Image.fromarray(image_rows("test", side)[0][0]).save("picture.png")
    folder = image_run.run.path / "export"
    made = (folder / "README.md").read_text()
    wanted = load(image_run.run.path).predict(["picture.png"])
    names = run_code(made.replace("model_quantized", "model"), "onnxruntime", folder)
    np.testing.assert_allclose(names["logits"], wanted.outputs, rtol=1e-3, atol=1e-3)
    run_code(made, "rmtkd-edge", folder)


def test_other_text_columns_and_repositories_change_the_code(text_run):
    made = card(text_run.record, Origin(), "somebody/model")
    assert 'tokenizer(["a text"], padding' in made and 'snapshot_download("somebody/model")' in made
    assert 'from_pretrained("somebody/model", { dtype: "q8" })' in made
    assert "$" not in re.sub(r"\\\$", "", made)
    assert find_task("image-classification").hub.pipeline_tag == "image-classification"


def test_a_card_tells_no_path_of_this_machine(text_run, tmp_path):
    (tmp_path / "model").mkdir()
    made = card(text_run.record, Origin(source=str(tmp_path / "model")))
    assert "From model" in made and str(tmp_path) not in made.replace("\\", "")
    assert "From org/model" in card(text_run.record, Origin(source="org/model"))


def test_a_licence_is_that_of_the_source_models_card(tmp_path):
    source = tmp_path / "model"
    source.mkdir()
    assert license_of(str(source)) is None and license_of("scratch") is None
    for text, wanted in (
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\nlicense: [\n---\n", None),
        ("---\nlicense: [mit]\n---\n", None),
        ("# no metadata", None),
    ):
        (source / "README.md").write_text(text)
        assert license_of(str(source)) == wanted
    (source / "README.md").write_bytes(b"\xff\xfe---")
    assert license_of(str(source)) is None


def test_a_card_is_written_anew_with_what_was_measured_unless_somebody_changed_it(tmp_path, text_run):
    shutil.copytree(text_run.run.path, tmp_path / "a")
    run = Run.open(tmp_path / "a")
    data = profiled("laptop", 1.0, metered=True)
    for result in data["results"]:
        result["model"]["sha256"] = text_run.record.variants["int8"].sha256
    data["results"][0]["quality"]["verdict"] = "throttled"
    run.write_record(profile_record("laptop"), from_json(ProfileRecord, data, "a test"))
    refresh_cards(run)
    path = run.path / "export/README.md"
    text = path.read_text()
    assert "A laptop \\(laptop\\) | int8 | batch 1" in text and "| throttled |" in text and "Not measured" not in text
    assert run.damaged("export/") == {} and load(run.path).predict([("w1", "w2")]).labels
    path.write_text(text + "mine")
    refresh_cards(run)
    assert path.read_text().endswith("mine")
    origin = origin_of(run, read_recipe(run), ROLES["candidate"])
    assert origin.columns == 2 and origin.method == "rmt-kd" and [p.profile for p in origin.profiles] == ["laptop"]
    emulated = replace(origin.profiles[0], hardware={"emulated": True})
    assert "Not measured" in card(text_run.record, replace(origin, profiles=(emulated,)))


def test_an_edited_card_survives_another_export(tmp_path, traced):
    options = make_text_run(tmp_path / "a", export={"int8": False})
    export_run(options)
    path = options.run / "export/README.md"
    path.write_text("my own words")
    export_run(replace(options, force=True))
    assert path.read_text() == "my own words"


def test_an_older_record_and_a_task_that_the_hub_does_not_know_have_cards(text_run):
    old = from_json(ExportRecord, {**to_json(text_run.record), "graph": {}, "onnxruntime": ""}, "a test")
    assert "not recorded" in card(old, Origin())
    kind = type(find_task("text-classification"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "hub", None)
        made = card(text_run.record, Origin())
    assert "rmtkd_edge.load" in made and "pipeline_tag" not in made and "model-index" not in made


def test_a_model_in_memory_has_a_card_and_its_folder_can_be_replaced(tmp_path):
    net = sample_of("resnet").make_model(0)
    folder = export(net, tmp_path / "out", precision="fp32")
    assert "a model in memory" in (tmp_path / "out/README.md").read_text()
    export(net, folder, precision="fp32", force=True)
    (tmp_path / "out/README.md").write_text("my own words")
    with pytest.raises(RunDirError, match=r"README\.md is there and was not written by this program"):
        export(net, folder, precision="fp32", force=True)
    assert (tmp_path / "out/README.md").read_text() == "my own words"
