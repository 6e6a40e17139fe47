"""Checkpoints of encoders: what was written is what is read, and anything else is refused by name."""

import json

import pytest
import torch
from families.encoder.sample import UNEVEN, make_encoder, make_spec, project
from safetensors.torch import load_file, save_file

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.families.store import load_folder, load_model, save_folder, save_model
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.run.directory import Run


def sample(kind="bert"):
    return project(make_encoder(make_spec(kind).with_ranks(UNEVEN)), make_spec(kind))


def test_no_weight_is_initialised_before_it_is_read(tmp_path, monkeypatch):
    save_folder(tmp_path / "folder", sample())
    for name in ("_no_grad_normal_", "_no_grad_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda *args, **given: pytest.fail("initialised"))
    load_folder(tmp_path / "folder")


def rewrite(folder, tensors):
    """Replace the weights and make the hash on record fit, so that only the shape can be at fault."""
    save_file(tensors, folder / "model.safetensors")
    shape = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**shape, "sha256": sha256_file(folder / "model.safetensors")}))


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "mpnet", "albert"])
def test_run_and_folder_give_back_every_tensor(tmp_path, kind):
    encoder = sample(kind)
    run = Run.create(tmp_path / "run", "", 0)
    save_model(run, "compress/best", encoder)
    save_folder(tmp_path / "folder", encoder)
    for again in (
        load_model(run, "compress/best"),
        load_folder(tmp_path / "folder"),
        load_folder(run.path / "compress/best"),
    ):
        assert again.spec == encoder.spec and not again.training
        assert again.state_dict().keys() == encoder.state_dict().keys()
        assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in again.state_dict().items())
        assert all(p.requires_grad and not p.is_meta for p in again.parameters())


def test_loading_spends_no_randomness(tmp_path):
    save_folder(tmp_path, sample())
    state = torch.random.get_rng_state()
    load_folder(tmp_path)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_damaged_weights_are_refused_by_name(tmp_path, damage):
    run = Run.create(tmp_path / "run", "", 0)
    save_model(run, "best", sample())
    path = run.path / "best/model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    for read in (lambda: load_model(run, "best"), lambda: load_folder(run.path / "best")):
        with pytest.raises(RunDirError, match=r"model\.safetensors"):
            read()


def test_weights_that_do_not_fit_are_named(tmp_path):
    save_folder(tmp_path, sample())
    whole = load_file(tmp_path / "model.safetensors")
    faults = {
        "pooler.bias is missing": {k: v for k, v in whole.items() if k != "pooler.bias"},
        "stranger does not belong": {**whole, "stranger": torch.zeros(2)},
        "pooler.bias is ": {**whole, "pooler.bias": torch.zeros(3)},
        "dtype": {**whole, "pooler.bias": whole["pooler.bias"].double()},
    }
    for message, tensors in faults.items():
        rewrite(tmp_path, tensors)
        with pytest.raises(RunDirError, match=message) as caught:
            load_folder(tmp_path)
        assert "model.safetensors" in caught.value.message
    rewrite(tmp_path, whole)
    load_folder(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema": "rmtkd-edge/model@9"}', '{"schema": "rmtkd-edge/model@1", "spec": {}}']
)
def test_a_shape_that_cannot_be_read_is_refused_by_name(tmp_path, text):
    save_folder(tmp_path, sample())
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(RunDirError, match=r"model\.json"):
        load_folder(tmp_path)
