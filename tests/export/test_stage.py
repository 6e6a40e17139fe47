"""The export stage: both folders are whole, validation decides, test is reported, faults leave no file."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from export.export_sample import ROWS, make_text_run, text_rows
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rmtkd_edge.errors import DataError, Finding, NotFiniteError, RunDirError, UserError
from rmtkd_edge.export import folder, stage
from rmtkd_edge.export.load import load
from rmtkd_edge.export.stage import export_run, saturates
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.onnx_program import oldest_runtime
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import ROLES
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.scores import Scores


def copied(made: SimpleNamespace, path, **options):
    """Return the options of a copy of a run."""
    return replace(made.options, run=shutil.copytree(made.run.path, path), **options)


@pytest.fixture(params=["text_run", "image_run"])
def made(request) -> SimpleNamespace:
    return request.getfixturevalue(request.param)


def test_both_folders_are_whole(made):
    run, record = made.run, made.record
    for role in ROLES.values():
        found = {p.relative_to(run.path / role.folder).as_posix() for p in run.path_of(role.folder).rglob("*")}
        found = {name for name in found if (run.path / role.folder / name).is_file()}
        listed = run.read_record(ExportRecord, role.record)
        assert found == {*listed.files, "rmtkd.json", "README.md"}
        assert {"config.json", listed.weights, "onnx/model.onnx", "onnx/model_quantized.onnx"} <= found
    run.verify("export/")
    assert 0 < record.reduction < 1
    checks = record.verification
    assert all(getattr(checks, name) <= limit for name, limit in checks.tolerances.items())
    counts = [record.fusion.emitted, *record.fusion.optimised.values()]
    assert len(counts) == 3 and all(count.expected == count.found and count.expected for count in counts)
    for variant in record.variants.values():
        assert variant.validation.rows == ROWS["validation"] and variant.test.rows == ROWS["test"]
        assert variant.validation.interval is not None
        assert variant.sha256 == record.files[variant.file]
        assert variant.size_bytes == (run.path / "export" / variant.file).stat().st_size
    assert run.read_record(ExportRecord, ROLES["baseline"].record).reduction == 0
    assert run.stage("export")["state"] == "done"


def test_other_rows_than_compress_read_are_refused(made, tmp_path):
    options = copied(made, tmp_path / "run", force=True)
    run = Run.open(options.run)
    run.mark("compress", "done", rows={"train": "of another day"})
    with pytest.raises(RunDirError, match="train and validation and test changed") as caught:
        export_run(options)
    assert "--data" in caught.value.hint and run.has("export/rmtkd.json")


def test_the_tokenizer_that_ships_gives_pairs_their_types(text_run):
    found = AutoTokenizer.from_pretrained(text_run.run.path / "export")("w0 w1", "w2")
    assert found["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_config_and_metadata_name_the_model(made):
    shape = made.run.read_json("export/config.json")["rmtkd"]
    assert shape["spec"]["family"] == made.record.family and shape["task"] == made.record.task
    graph = onnx.load(str(made.run.path / "export/onnx/model.onnx"))
    told = {item.key: item.value for item in graph.metadata_props}
    assert told["rmtkd_model_id"] == made.record.model_id and made.record.model_id.endswith("-rmt-kd")
    assert json.loads(told["rmtkd_ranks"]) == made.record.ranks


def test_transformers_never_answers_with_random_weights(made):
    kinds = (AutoModel, AutoModelForSequenceClassification, AutoModelForImageClassification)
    for role in ROLES.values():
        folder = made.run.path / role.folder
        config = AutoConfig.from_pretrained(folder)
        assert config.id2label == dict(enumerate(made.record.labels))
        if made.run.read_json(f"{role.folder}/config.json")["rmtkd"]["transformers"]:
            continue  # test_config.py holds that it computes the same
        for kind in kinds:
            if type(config) in kind._model_mapping:
                with pytest.raises(OSError, match=r"no file named model\.safetensors"):
                    kind.from_pretrained(folder)


def test_a_tokenizer_cuts_texts_as_training_did(tmp_path, traced, text_run):
    options = make_text_run(tmp_path / "a", task={"max_length": 6})
    export_run(options)
    texts = ("w0 " * 30, "w1 " * 30)
    assert len(AutoTokenizer.from_pretrained(options.run / "export")(*texts, truncation=True)["input_ids"]) == 6


def test_a_tokenizer_that_gives_other_inputs_than_training_is_refused(text_run, tmp_path, traced, monkeypatch):
    family = type(find_family("encoder"))
    monkeypatch.setattr(family, "fit_preprocessing", lambda self, spec, files, max_length: dict(files))
    options = make_text_run(tmp_path / "a", task={"max_length": 6})
    with pytest.raises(Finding, match="pads or cuts rows to 14 tokens, training to 6"):
        export_run(options)
    assert not (options.run / "export").exists()


def test_no_exported_file_holds_a_path_of_this_machine(made):
    places = (sys.prefix, Path(onnx.__file__).parents[1], Path(folder.__file__).parents[2], made.run.path, Path.home())
    for role in ROLES.values():
        for path in (made.run.path / role.folder).rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert [str(place) for place in places if str(place).encode() in content] == [], path
            assert b'File "' not in content, path  # a stack trace


def test_no_file_imports_operators_that_it_does_not_use(made):
    for variant in made.record.variants.values():
        graph = onnx.load(str(made.run.path / "export" / variant.file))
        assert {item.domain for item in graph.opset_import} == {"", *(node.domain for node in graph.graph.node)}


def test_every_file_names_the_oldest_onnxruntime(made):
    assert made.record.onnxruntime == "1.18" and oldest_runtime(22) == "1.21" and oldest_runtime(23) == "1.23"
    for variant in made.record.variants.values():
        graph = onnx.load(str(made.run.path / "export" / variant.file))
        assert {item.key: item.value for item in graph.metadata_props}["rmtkd_onnxruntime"] == "1.18"
        assert graph.ir_version <= 10  # what onnxruntime 1.18 reads


def test_scores_are_those_of_the_loaded_model(text_run):
    *texts, labels = zip(*text_rows("test", pairs=True), strict=True)
    answers = load(text_run.run.path).predict(list(zip(*texts, strict=True))).labels
    right = np.array(answers) == np.array(labels)
    assert text_run.record.variants["fp32"].test.values["accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(("validation", "refused"), [((0.9, 0.8), True), ((0.9, 0.895), False)])
def test_validation_decides_and_test_is_only_reported(tmp_path, traced, monkeypatch, validation, refused):
    options = make_text_run(tmp_path / "a", export={"max_drop": 0.01})
    scores = {"validation": iter(validation * 2), "test": iter((0.9, 0.895, 0.9, 0.895) if refused else (0.9, 0.1) * 2)}

    def scored(session, batches, task, metric, split):
        return Scores(split, 24, metric, {metric: next(scores[split])}, None)

    monkeypatch.setattr(folder, "evaluate_onnx", scored)
    int8 = export_run(options).variants["int8"]
    assert (int8.refused is not None) == refused
    path = options.run / "export/onnx/model_quantized.onnx"
    assert path.exists() != refused
    if refused:
        assert "accuracy" in int8.refused and "0.9000" in int8.refused and "0.8000" in int8.refused
        assert Run.open(options.run).read_json("export/rmtkd.json")["files"].keys() & {int8.file} == set()
        with pytest.raises(UserError, match="refused"):
            load(options.run, precision="int8")


def test_the_recipes_metric_decides(tmp_path, traced):
    record = export_run(make_text_run(tmp_path / "a", task={"metric": "f1_macro"}))
    assert record.metric == "f1_macro" and record.variants["fp32"].validation.primary == "f1_macro"
    assert {"accuracy", "matthews_corrcoef"} <= record.variants["fp32"].validation.values.keys()


def test_the_range_of_int8_follows_the_target(tmp_path, traced, monkeypatch):
    assert saturates(None, ("avx2", "avx512")) and not saturates(None, ("avx512", "avx512-vnni"))
    assert saturates("generic-x86-avx2", ("neon",)) and not saturates("raspberry-pi-5", ("avx2",))
    options = make_text_run(tmp_path / "a", stop={"profile": "raspberry-pi-5"})
    assert export_run(options).variants["int8"].quantisation["reduce_range"] is False
    machine = stage.detect_machine()
    monkeypatch.setattr(stage, "detect_machine", lambda: replace(machine, instruction_sets=("avx2",)))
    other = make_text_run(tmp_path / "b")
    assert export_run(other).variants["int8"].quantisation["reduce_range"] is True


def test_stage_refuses_what_it_cannot_do(text_run, tmp_path):
    with pytest.raises(RunDirError, match="exists already"):
        export_run(text_run.options)
    Run.create(tmp_path / "new", "", 0)
    with pytest.raises(RunDirError, match="compress"):
        export_run(replace(text_run.options, run=tmp_path / "new"))
    options = make_text_run(tmp_path / "other", task={"labels": ["odd", "good", "bad"]})
    with pytest.raises(DataError, match="labels"):
        export_run(options)


def test_images_of_another_size_are_refused(image_run, tmp_path):
    options = copied(image_run, tmp_path / "a", data=tmp_path / "data", force=True)
    options.data.mkdir()
    for split in ROWS:
        np.savez(options.data / f"{split}.npz", images=np.zeros((6, 12, 12, 3), np.uint8), labels=np.arange(6) % 2)
    with pytest.raises(DataError, match="pixel_values"):
        export_run(options)
    assert Run.open(options.run).stage("export")["state"] == "done"


def test_a_wrong_option_costs_no_export(text_run, tmp_path):
    options = copied(text_run, tmp_path / "run", opset=7, force=True)
    with pytest.raises(UserError, match="opset 7"):
        export_run(options)
    with pytest.raises(UserError, match="threads"):
        export_run(replace(options, opset=None, threads=0))
    assert Run.open(options.run).stage("export")["state"] == "done"
    assert load(options.run).predict(["w1"]).outputs.shape == (1, 3)


def test_the_same_run_gives_the_same_bytes_and_a_failed_proof_leaves_no_file(tmp_path, text_run, traced, monkeypatch):
    options = make_text_run(tmp_path / "a")
    record = export_run(replace(options, int8=False))
    assert "int8" not in record.variants
    names = ("config.json", "rmtkd.safetensors", "onnx/model.onnx")
    assert all(record.files[name] == text_run.record.files[name] for name in names)

    def fail(*args, **kwargs):
        raise Finding("differs")

    monkeypatch.setattr(folder, "verify_onnx", fail)
    with pytest.raises(Finding):
        export_run(replace(options, force=True))
    run = Run.open(options.run)
    assert not (run.path / "export").exists() and run.stage("export")["state"] == "running"
    assert not any(name.startswith("export/") for name in run.manifest["files"])


def test_an_export_that_was_stopped_goes_on_without_force(text_run, traced, tmp_path):
    options = copied(text_run, tmp_path / "run")
    run = Run.open(options.run)
    run.mark("export", "running")
    run.remove("baseline")
    export_run(options)
    assert Run.open(options.run).has("baseline/rmtkd.json")


def test_half_precision_on_request_is_smaller_loads_and_is_measured(text_run, traced, tmp_path):
    assert "fp16" not in text_run.record.variants
    options = copied(text_run, tmp_path / "a", fp16=True, force=True)
    variants = export_run(options).variants
    half, full = variants["fp16"], variants["fp32"]
    assert half.refused is None and half.size_bytes < full.size_bytes
    assert 0 < half.relative_difference < 1e-2
    a, b = (load(options.run, precision=name).predict(["w1 w2", "w3"]) for name in ("fp32", "fp16"))
    np.testing.assert_allclose(a.outputs, b.outputs, atol=1e-2 * np.abs(a.outputs).max())
    with pytest.raises(UserError, match="no fp16 variant"):
        load(text_run.run.path, precision="fp16")


def test_a_file_whose_outputs_are_not_finite_is_refused(text_run):
    fp32 = text_run.record.variants["fp32"]
    assert "finite" in folder.refusal(fp32, replace(fp32, relative_difference=None), 1.0)
    assert folder.refusal(fp32, fp32, 0.0) is None


def test_a_file_that_overflows_on_a_validation_row_alone_is_refused(text_run, traced, tmp_path, monkeypatch):
    real = folder.evaluate_onnx

    def evaluate(session, *rest):
        if "quantized" in str(session._model_path):
            raise NotFiniteError("the model's outputs on 1 of 9 validation rows are NaN or infinite")
        return real(session, *rest)

    monkeypatch.setattr(folder, "evaluate_onnx", evaluate)
    options = copied(text_run, tmp_path / "run", force=True)
    variants = export_run(options).variants
    assert "finite" in variants["int8"].refused and variants["int8"].validation is None
    assert not (Path(options.run) / "export" / variants["int8"].file).exists()
    assert variants["fp32"].validation is not None
