"""From Python: the task of a model is found by its head, and another one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rmtkd_edge as rk
from rmtkd_edge.config.recipe import Compress, Distil
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.tasks.entity_metrics import label_codes

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
NAMES = ["O", "B-x", "I-x"]


def model_of(kind: str, **options: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, max_position_embeddings=24, initializer_range=0.3, **SIZES, **options
    )
    return getattr(transformers, f"Bert{kind}")(config).eval()


def batches(targets: str = "") -> list[dict[str, torch.Tensor]]:
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(4):
        ids = torch.randint(5, 40, (32, 8), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batch |= {"labels": ids % 3} if targets else {}
        batch |= {"codes": torch.tensor(label_codes(NAMES)).repeat(32, 1)} if targets == "all" else {}
        found.append(batch)
    return found


def test_an_encoder_alone_is_compressed_without_labels(tmp_path: Path) -> None:
    model = rk.from_transformers(model_of("Model"))
    spectra = rk.analyse(model, batches(), compress=Compress(ranks={"stream": 12}))
    small = rk.compress(model, rk.plan(spectra, reduction=0.2), batches())
    assert small.spec.embedding_width == 16 > small.spec.width
    learnt = rk.distil(small, model, batches(), steps=4, options=Distil(alpha=0))
    exported = rk.export(learnt, tmp_path / "out", loader=batches(), precision="fp32")
    assert exported.record.kind == "sentence-embedding"
    with pytest.raises(DataError, match="have no `labels`"):
        rk.distil(small, model, batches(), steps=4)
    with pytest.raises(UserError) as caught:
        rk.analyse(model, batches(), task="text-classification")
    assert "sentence-embedding" in caught.value.hint


def test_a_token_classifier_is_scored_by_entities(tmp_path: Path) -> None:
    options = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    model = rk.from_transformers(model_of("ForTokenClassification", **options))
    exported = rk.export(model, tmp_path / "out", loader=batches("all"), precision="fp32")
    assert exported.record.kind == "token-classification" and exported.record.labels == tuple(NAMES)
    assert {*exported.record.variants["fp32"].validation.values} == {"f1", "precision", "recall", "accuracy"}
    with pytest.raises(DataError, match="no `codes`") as caught:
        rk.export(model, tmp_path / "other", loader=batches("labels"), precision="fp32")
    assert "label_codes" in caught.value.hint and np.isfinite(exported.record.verification.onnx_float32)
