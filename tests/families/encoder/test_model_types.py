"""Model types that are more than BERT under another name: every shape and padding, every form of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from families.encoder.sample import tiny_classifier
from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import rmtkd_edge
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.families.encoder.checkpoints import pretrained
from rmtkd_edge.families.encoder.positions import FARTHEST, bucket_of_distance
from rmtkd_edge.families.encoder.settings import EncoderShape
from rmtkd_edge.families.encoder.sources import _scratch
from rmtkd_edge.families.encoder.spec import MODEL_TYPES

KINDS = ("mpnet", "albert")
LABELS = ("a", "b", "c")
PAD = 1


def inputs(batch: int, length: int, side: str, seed: int = 0) -> dict[str, Tensor]:
    """Return random ids and mask (batch, length); every row but the first is padded on one side, by up to a half."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 60, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        gone = row * length // (2 * batch)
        mask[row, : gone if side == "left" else 0] = 0
        mask[row, length - gone if side == "right" else length :] = 0
    return {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask}


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_transformers_in_every_shape(kind: str, side: str) -> None:
    model = tiny_classifier(kind)
    ours = rmtkd_edge.from_transformers(model)
    for batch in (1, 8):
        for length in (1, 2, 9, ours.spec.max_length):
            given = inputs(batch, length, side)
            with torch.no_grad():
                wanted = model(**given).logits
                torch.testing.assert_close(ours(**given), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoints_in_several_files_and_in_half_precision_are_loaded(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_classifier(kind).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    found, trained = pretrained(str(tmp_path), LABELS, None)
    given = inputs(3, 9, "right")
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(**given), model.float()(**given).logits, rtol=1e-4, atol=1e-5)
    assert trained and all(p.dtype == torch.float32 for p in found.parameters())


def test_distances_beyond_the_farthest_share_the_last_bucket_and_others_have_transformers() -> None:
    distance = torch.arange(-600, 601)
    wanted = MPNetEncoder.relative_position_bucket(distance)
    ours = torch.tensor(bucket_of_distance())[distance.clamp(-FARTHEST, FARTHEST) + FARTHEST]
    assert torch.equal(ours, wanted)


def test_long_texts_have_the_bias_of_transformers() -> None:
    model = tiny_classifier("mpnet", max_position_embeddings=302)
    ours, given = rmtkd_edge.from_transformers(model), inputs(2, 300, "right")
    with torch.no_grad():
        torch.testing.assert_close(ours(**given), model(**given).logits, rtol=1e-4, atol=1e-5)


def test_other_buckets_and_another_padding_token_are_refused() -> None:
    config = transformers.MPNetConfig(relative_attention_num_buckets=16, hidden_size=16, num_attention_heads=2)
    with pytest.raises(UserError, match="relative_attention_num_buckets of 16"):
        rmtkd_edge.from_transformers(transformers.MPNetForSequenceClassification(config))

    class Tokens(list[int]):
        pad_token_id = 0

    with pytest.raises(DataError, match="padding token 1, the tokenizer's is 0"):
        _scratch(EncoderShape(model_type="mpnet"), LABELS, Tokens(range(9)))
