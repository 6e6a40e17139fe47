"""The exported folders: complete, checked, readable by others, and loaded again by us."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from export.export_sample import LABELS, UNEVEN, make_batch, make_encoder, make_run, make_spec, make_task

from rmtkd_edge.errors import DataError, Finding, ProviderError, RunDirError, UserError
from rmtkd_edge.export import stage
from rmtkd_edge.export.bundle import fits_transformers, standardise, to_config, to_tensors
from rmtkd_edge.export.fold_proof import run_torch
from rmtkd_edge.export.load import load
from rmtkd_edge.export.stage import export_run
from rmtkd_edge.families.encoder.to_onnx import export_onnx
from rmtkd_edge.families.encoder.spec import with_ranks
from rmtkd_edge.run.directory import Run, sha256_file

TEXTS = [("w1 w2", "w3"), ("w4", "w5 w6 w7"), ("w8 w9 w10 w11", "w12")]


def test_both_folders_are_whole(exported):
    run, facts = exported.run, exported.facts
    for folder in ("export", "baseline"):
        found = {p.relative_to(run.path / folder).as_posix() for p in (run.path / folder).rglob("*") if p.is_file()}
        assert found == {*run.read_json(f"{folder}/rmtkd.json")["files"], "rmtkd.json"}
        assert {
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/model_quantized.onnx",
        } <= found
    run.verify("export/")
    assert facts["ranks"]["stream"] == UNEVEN["stream"] and 0 < facts["reduction"] < 1
    checks = facts["verification"]
    assert all(checks[name] <= limit for name, limit in checks["tolerances"].items())
    assert facts["fusion"]["expected"] == facts["fusion"]["found"]
    for variant in facts["variants"].values():
        assert variant["n"] == 24 and variant["sha256"] == facts["files"][variant["file"]]
        assert variant["size_bytes"] == (run.path / "export" / variant["file"]).stat().st_size
    assert run.read_json("baseline/rmtkd.json")["reduction"] == 0
    assert Run.open(run.path).stage("export")["state"] == "done"


def test_backends_agree_with_each_other_and_with_the_run(exported):
    onnx, torch_, int8 = (
        load(exported.run.path),
        load(exported.run.path / "export", backend="torch"),
        load(exported.run.path, precision="int8"),
    )
    a, b, c = onnx.predict(TEXTS), torch_.predict(TEXTS, batch_size=2), int8.predict(TEXTS)
    np.testing.assert_allclose(a.logits, b.logits, rtol=1e-4, atol=1e-4)
    assert np.abs(c.logits - a.logits).max() < 0.1 * np.abs(a.logits).max()
    assert a.labels == b.labels and set(a.labels) <= set(LABELS)
    assert onnx.predict([]).logits.shape == (0, 3) and onnx.predict(["w1"]).logits.shape == (1, 3)
    task = exported.task.validation
    right = np.array([LABELS.index(name) for name in onnx.predict(task.texts).labels]) == task.labels
    assert exported.facts["variants"]["fp32"]["accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onnx/model.onnx", {}),
        ("onnx/model_quantized.onnx", {"precision": "int8"}),
        ("model.safetensors", {"backend": "torch"}),
        ("config.json", {}),
        ("tokenizer.json", {}),
    ],
)
def test_an_altered_file_is_refused_by_name(exported, tmp_path, name, options):
    folder = tmp_path / "copy"
    shutil.copytree(exported.run.path / "export", folder)
    load(folder, **options)
    data = (folder / name).read_bytes()
    for damage in (data[: len(data) // 2], data[:-3] + bytes(b ^ 1 for b in data[-3:])):
        (folder / name).write_bytes(damage)
        with pytest.raises(RunDirError, match=name.split("/")[-1]):
            load(folder, **options)
    (folder / name).unlink()
    with pytest.raises(RunDirError, match=name.split("/")[-1]):
        load(folder, **options)


def test_what_cannot_be_loaded_says_why(exported, tmp_path):
    with pytest.raises(ProviderError, match="QNNExecutionProvider"):
        load(exported.run.path, provider="QNNExecutionProvider")
    with pytest.raises(RunDirError, match=r"rmtkd\.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="fp32"):
        load(exported.run.path, backend="torch", precision="int8")
    with pytest.raises(UserError, match="int4"):
        load(exported.run.path, precision="int4")
    with pytest.raises(UserError, match="threads"):
        load(exported.run.path, threads=0)


def test_transformers_loads_what_fits_and_fails_on_what_does_not(exported, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(exported.run.path / "export")
    assert config.model_type == "bert" and config.id2label == dict(enumerate(LABELS)) and config.rmtkd["note"]
    with pytest.raises(RuntimeError):
        AutoModelForSequenceClassification.from_pretrained(exported.run.path / "export")
    teacher = AutoModelForSequenceClassification.from_pretrained(exported.run.path / "baseline").eval()
    batch = make_batch()
    with torch.no_grad():
        theirs = teacher(**batch).logits
        ours = run_torch(load(exported.run.path / "baseline", backend="torch").model, batch)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_a_model_cut_evenly_is_one_that_transformers_can_hold(tmp_path):
    from safetensors.torch import save_file
    from transformers import AutoModelForSequenceClassification

    even = {f"layer.{i}.{kind}": 4 for i in range(2) for kind in ("qk", "value")}
    folded = make_encoder(with_ranks(make_spec(), even | {"stream": 8, "head": 8}))
    assert not fits_transformers(folded.spec)  # its scale is the wide head's
    shipped, batch = standardise(folded), make_batch()
    assert fits_transformers(shipped.spec)
    (tmp_path / "config.json").write_text(json.dumps(to_config(shipped.spec, "toy")))
    save_file(to_tensors(shipped), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()(**batch).logits
        torch.testing.assert_close(run_torch(shipped, batch), run_torch(folded, batch), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs, run_torch(folded, batch), rtol=1e-5, atol=1e-5)


def test_stage_refuses_what_it_cannot_do(exported, tmp_path):
    with pytest.raises(RunDirError, match="exists already"):
        export_run(exported.run, task=exported.task)
    run = Run.create(tmp_path / "new", "", 0)
    with pytest.raises(RunDirError, match="compress"):
        export_run(run)
    other = make_run(tmp_path / "other")
    task = make_task()
    with pytest.raises(DataError, match="labels"):
        export_run(other, task=type(task)(task.name, ["a", "b", "c"], task.train, task.validation))


def test_export_again_gives_the_same_bytes(exports, tmp_path):
    export_onnx(exports["bert"].encoder, tmp_path / "again.onnx", metadata={"rmtkd_task": "toy"})
    assert sha256_file(tmp_path / "again.onnx") == sha256_file(exports["bert"].path)


def test_a_failed_proof_leaves_no_file(tmp_path, exported, traced, monkeypatch):
    run = make_run(tmp_path / "a")
    facts = export_run(run, task=exported.task, threads=1, int8=False)
    assert "int8" not in facts["variants"]
    names = ("config.json", "model.safetensors", "onnx/model.onnx")
    assert all(facts["files"][name] == exported.facts["files"][name] for name in names)
    monkeypatch.setattr(stage, "verify_onnx", _fail)
    with pytest.raises(Finding):
        export_run(run, task=exported.task, threads=1, force=True)
    assert not (run.path / "export").exists() and run.stage("export")["state"] == "running"


def _fail(*args, **kwargs):
    raise Finding("differs")


def copy_of(exported, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported.run.path / "export", folder)
    return folder, json.loads((folder / "rmtkd.json").read_text())


def test_a_variant_outside_of_the_folder_is_refused(exported, tmp_path):
    folder, facts = copy_of(exported, tmp_path)
    shutil.copy(folder / "onnx/model.onnx", tmp_path / "evil.onnx")
    facts["variants"]["fp32"]["file"] = "../evil.onnx"
    (folder / "rmtkd.json").write_text(json.dumps(facts))
    with pytest.raises(RunDirError, match="outside"):
        load(folder)


def test_a_file_that_a_tokenizer_would_read_unseen_is_refused(exported, tmp_path):
    folder, _ = copy_of(exported, tmp_path)
    (folder / "special_tokens_map.json").write_text('{"pad_token": "w9"}')
    with pytest.raises(RunDirError, match=r"special_tokens_map\.json"):
        load(folder)


@pytest.mark.parametrize("key", ["files", "variants", "max_length"])
def test_facts_that_lack_a_key_are_refused_with_the_export_as_the_way_out(exported, tmp_path, key):
    folder, facts = copy_of(exported, tmp_path)
    del facts[key]
    (folder / "rmtkd.json").write_text(json.dumps(facts))
    with pytest.raises(RunDirError, match="lacks") as caught:
        load(folder)
    assert "export" in str(caught.value.hint)


def test_options_that_torch_has_no_use_for_are_refused(exported):
    with pytest.raises(UserError, match="onnxruntime's"):
        load(exported.run.path, backend="torch", provider="CUDAExecutionProvider")


def test_a_wrong_option_costs_no_export(exported, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(exported.run.path, path)
    with pytest.raises(UserError, match="opset 7"):
        export_run(Run.open(path), opset=7, task=exported.task, force=True)
    assert Run.open(path).stage("export")["state"] == "done"
    assert load(path).predict(["w1"]).logits.shape == (1, 3)


def test_an_export_that_was_stopped_goes_on_without_force(exported, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(exported.run.path, path)
    run = Run.open(path)
    run.mark("export", "running")
    run.remove("baseline")
    export_run(run, task=exported.task)
    assert Run.open(path).has("baseline/rmtkd.json")


def test_electra_cut_to_its_embedding_width_does_not_pass_for_transformers_own():
    spec = make_spec("electra")
    layers = tuple(replace(layer, qk=6, value=6, scale=6**-0.5) for layer in spec.layers)
    spec = replace(spec, width=12, head_width=12, embedding=12, layers=layers)
    assert all(layer.heads * layer.qk == 12 for layer in layers)
    assert not fits_transformers(spec)
    assert fits_transformers(replace(spec, embedding=8))


def test_half_precision_on_request_is_smaller_loads_and_is_measured(exported, tmp_path):
    from rmtkd_edge.profile.plan import find_models

    assert "fp16" not in exported.facts["variants"]
    labels = [model.label for model in find_models(exported.run)[0]]
    notes = " ".join(find_models(exported.run)[1])
    assert not any("fp16" in label for label in labels) and "fp16" not in notes
    run = Run.open(shutil.copytree(exported.run.path, tmp_path / "a"))
    facts = export_run(run, task=exported.task, threads=1, fp16=True, force=True)
    half, full = facts["variants"]["fp16"], facts["variants"]["fp32"]
    assert half["refused"] is None and half["size_bytes"] < full["size_bytes"]
    assert 0 < half["relative_difference"] < 1e-2
    a, b = load(run.path).predict(TEXTS), load(run.path, precision="fp16").predict(TEXTS)
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-2 * np.abs(a.logits).max())
    assert "rmt-kd fp16" in [model.label for model in find_models(run)[0]]
    with pytest.raises(UserError, match="no fp16 variant"):
        load(exported.run.path, precision="fp16")
