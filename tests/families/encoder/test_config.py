"""What transformers makes of an exported encoder: it loads what fits its classes, and fails on what does not."""

import json
from dataclasses import replace

import pytest
import torch
from families.encoder.sample import LABELS, UNEVEN, make_batch, make_encoder, make_spec, padded_ids, tiny_classifier
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from rmtkd_edge.export.fold_proof import run_torch
from rmtkd_edge.families.encoder.checkpoints import from_transformers
from rmtkd_edge.families.encoder.config import fits_transformers, standardise, to_config, to_tensors
from rmtkd_edge.families.encoder.spec import MODEL_TYPES


def write(encoder, folder) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_config(encoder.spec)))
    save_file(to_tensors(encoder), folder / "model.safetensors", metadata={"format": "pt"})


def test_transformers_loads_what_fits_and_fails_on_what_does_not(tmp_path):
    narrow, teacher, batch = make_encoder(make_spec().with_ranks(UNEVEN)), make_encoder(make_spec()), make_batch()
    write(standardise(narrow), tmp_path / "narrow")
    config = AutoConfig.from_pretrained(tmp_path / "narrow")
    assert config.model_type == "bert" and config.id2label == dict(enumerate(LABELS)) and config.rmtkd["note"]
    with pytest.raises(RuntimeError):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "narrow")
    write(teacher, tmp_path / "teacher")
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher").eval()(**batch).logits
        torch.testing.assert_close(theirs, run_torch(teacher, batch), rtol=1e-5, atol=1e-5)


def test_a_model_cut_evenly_is_one_that_transformers_can_hold(tmp_path):
    even = {f"layer.{i}.{kind}": 4 for i in range(2) for kind in ("qk", "value")}
    folded = make_encoder(make_spec().with_ranks(even | {"stream": 8, "pooler": 8}))
    assert not fits_transformers(folded.spec)  # its scale is the wide head's
    shipped, batch = standardise(folded), make_batch()
    assert fits_transformers(shipped.spec)
    write(shipped, tmp_path)
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()(**batch).logits
        torch.testing.assert_close(run_torch(shipped, batch), run_torch(folded, batch), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs, run_torch(folded, batch), rtol=1e-5, atol=1e-5)


def test_electra_cut_to_its_embedding_width_does_not_pass_for_transformers_own():
    spec = make_spec("electra")
    layers = tuple(replace(layer, qk=6, value=6, scale=6**-0.5) for layer in spec.layers)
    spec = replace(spec, width=12, pooler_width=12, embedding_size=12, layers=layers)
    assert all(layer.heads * layer.qk == 12 for layer in layers)
    assert not fits_transformers(spec)
    assert fits_transformers(replace(spec, embedding_size=8))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_model_type_goes_back_to_the_class_that_it_came_from(tmp_path, kind):
    model = tiny_classifier(kind)
    write(from_transformers(model), tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids, mask = padded_ids()
    assert type(again) is type(model)
    with torch.no_grad():
        theirs, ours = (found(input_ids=ids, attention_mask=mask).logits for found in (model, again))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
