"""Model types that are more than BERT under another name: every shape and padding, every form of a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from families.encoder.sample import make_batch, make_encoder, make_spec, tiny_classifier
from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import rmtkd_edge
from rmtkd_edge.compress.depth import check_depth
from rmtkd_edge.config.recipe import Analyse, Export
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.config.settings import Graph
from rmtkd_edge.errors import DataError, RecipeError, UserError
from rmtkd_edge.export.audit import audit_optimised
from rmtkd_edge.export.verify import verify_onnx
from rmtkd_edge.families.base import QuantiseOptions, Site, find_family
from rmtkd_edge.families.encoder.checkpoints import pretrained
from rmtkd_edge.families.encoder.passes import tokens_of
from rmtkd_edge.families.encoder.positions import FARTHEST, bucket_of_distance
from rmtkd_edge.families.encoder.settings import EncoderShape
from rmtkd_edge.families.encoder.sources import _scratch
from rmtkd_edge.families.encoder.spec import MODEL_TYPES, tap_of
from rmtkd_edge.families.token_sampling import by_depth, pick_tokens
from rmtkd_edge.methods.base import find_method
from rmtkd_edge.tasks.base import find_task

KINDS = ("mpnet", "albert", "deberta-v2")
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


def test_each_sequence_shows_a_shared_layer_in_one_pass_and_all_passes_are_seen() -> None:
    taps = {tap_of("layer.0.ffn", number): torch.full((60, 5, 3), float(number)) for number in range(3)}
    mask, index = np.ones((60, 5), dtype=bool), np.arange(60)
    picked = pick_tokens(mask, index, 4, Analyse(tokens_per_sequence=2), 0)
    found = tokens_of(taps, "layer.0.ffn", picked, 3, 0).numpy()
    assert found.shape == (120, 3) and {*found.flat} == {0.0, 1.0, 2.0}
    assert all(len({*found[picked.sequences == row].flat}) == 1 for row in index)
    batch = {"index": torch.arange(60)}
    parts = [*by_depth(batch, [Site("layer.0.ffn", "ffn", 3, layer=0)], 4, 0, repeats=3)]
    assert [layers for _, layers in parts] == [3]  # every pass is run


def test_albert_is_cut_and_counted_once_and_has_no_layers_to_leave_out() -> None:
    spec = rmtkd_edge.from_transformers(tiny_classifier("albert", num_hidden_layers=6)).spec
    assert len([site for site in spec.sites() if site.kind == "ffn"]) == 1 and spec.depth == 6
    assert spec.count_parameters() == replace(spec, repeats=1).count_parameters()
    given = {"title": "t", "model": {"source": "a"}, "task": {"name": "t", "text": ["t"]}, "compress": {"layers": 3}}
    recipe = parse_recipe(given, "t")
    with pytest.raises(RecipeError, match=r"the model has 1 layer \(shared ones count once\)"):
        check_depth(spec, recipe, find_method("rmt-kd"))


@pytest.mark.parametrize("graph", ["fast", "portable"])
@pytest.mark.parametrize("ffn", [32, 600])  # torch's exporter treats small and large matrices differently
def test_the_file_has_a_shared_layer_once_in_every_precision(graph: Graph, ffn: int, tmp_path: Path) -> None:
    spec = make_spec("albert", layers=3, heads=6)
    encoder = make_encoder(replace(spec, layers=(replace(spec.layers[0], ffn=ffn),)))
    files, options, rows = (tmp_path / "fp32.onnx", tmp_path / "int8.onnx"), Export(graph=graph), [make_batch(8, 20)]
    find_family("encoder").export(encoder, files[0], options, {})
    find_family("encoder").quantise(files[0], files[1], rows, QuantiseOptions(True, 1))
    audit_optimised(files[1], encoder.spec, options, "int8")
    for file in files:
        numbers = sum(math.prod(item.dims) for item in onnx.load(str(file)).graph.initializer)
        assert numbers < 1.2 * encoder.spec.count_parameters()  # with the scales of int8
    verify_onnx(files[0], encoder, rows, find_task("text-classification"), threads=1)


def test_several_groups_of_layers_are_refused() -> None:
    with pytest.raises(UserError, match="num_hidden_groups of 2 and inner_group_num of 1"):
        rmtkd_edge.from_transformers(tiny_classifier("albert", num_hidden_groups=2))


def test_other_buckets_and_another_padding_token_are_refused() -> None:
    config = transformers.MPNetConfig(relative_attention_num_buckets=16, hidden_size=16, num_attention_heads=2)
    with pytest.raises(UserError, match="relative_attention_num_buckets of 16"):
        rmtkd_edge.from_transformers(transformers.MPNetForSequenceClassification(config))

    class Tokens(list[int]):
        pad_token_id = 0

    with pytest.raises(DataError, match="padding token 1, the tokenizer's is 0"):
        _scratch(EncoderShape(model_type="mpnet"), LABELS, Tokens(range(9)), "row")
