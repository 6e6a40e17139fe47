"""Disentangled attention (DeBERTa) against transformers: every setting of it, every length, cut and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families.encoder.sample import make_batch, make_spec, tiny_classifier
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DebertaV2ForTokenClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

import rmtkd_edge
from rmtkd_edge.config.recipe import Analyse, Export
from rmtkd_edge.errors import UserError
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.export.verify import verify_onnx
from rmtkd_edge.families.base import AnalyseOptions, QuantiseOptions, call, find_family, list_sites
from rmtkd_edge.families.encoder.config import fits_transformers
from rmtkd_edge.families.encoder.distances import row_of_distance
from rmtkd_edge.families.encoder.spec import Disentangled
from rmtkd_edge.families.low_rank import best_factors
from rmtkd_edge.tasks.base import tasks_of

FAMILY = find_family("encoder")
LONGEST = 40
SETTINGS: dict[str, dict[str, Any]] = {
    "v3": {},
    "v2": {"share_att_key": False, "norm_rel_ebd": "none", "position_biased_input": True, "type_vocab_size": 2},
    "c2p": {"pos_att_type": "c2p", "share_att_key": False, "pooler_hidden_act": "tanh"},
    "p2c": {"pos_att_type": ["p2c"]},
    "each distance": {"position_buckets": -1, "max_relative_positions": 6},
    "few buckets": {"position_buckets": 2, "max_relative_positions": 100},
    "thin table": {"embedding_size": 12, "position_biased_input": True, "type_vocab_size": 2},
    "wide table": {"embedding_size": 24},
    "no distances": {"relative_attention": False},
    "plain": {"relative_attention": False, "pos_att_type": None, "position_biased_input": True},
}


def classifier(name: str, **changes: Any) -> Any:
    return tiny_classifier("deberta-v2", max_position_embeddings=LONGEST, **SETTINGS[name], **changes)


def inputs(batch: int, length: int, side: str) -> dict[str, Tensor]:
    given = make_batch(batch, length, length)
    ids = torch.where(given["attention_mask"].bool(), given["input_ids"], 1)
    given["input_ids"] = ids
    return {name: x.flip(1) for name, x in given.items()} if side == "left" else given


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_are_transformers_in_every_setting_and_shape(name: str) -> None:
    model = classifier(name)
    ours = rmtkd_edge.from_transformers(model)
    assert ours.spec.count_parameters() == sum(p.numel() for p in ours.parameters())
    assert (ours.spec.disentangled is None) == (SETTINGS[name].get("relative_attention") is False)
    for side in ("left", "right"):
        for batch, length in ((1, 1), (8, 2), (3, 9), (8, LONGEST)):
            given = inputs(batch, length, side)
            with torch.no_grad():
                wanted = model(**given).logits
                torch.testing.assert_close(call(ours, given), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_tokens_and_states_are_transformers() -> None:
    model, given = classifier("v3"), inputs(3, 9, "right")
    tagger = DebertaV2ForTokenClassification(model.config).eval()
    with torch.no_grad():
        torch.testing.assert_close(call(rmtkd_edge.from_transformers(tagger), given), tagger(**given).logits)
        embedder = rmtkd_edge.from_transformers(model.deberta)
        states = embedder.states(given["input_ids"], given["attention_mask"])
        torch.testing.assert_close(states, model.deberta(**given).last_hidden_state)


@pytest.mark.parametrize(("buckets", "farthest"), [(256, 512), (8, 40), (2, 600), (32, 17), (0, 24)])
def test_every_distance_has_the_row_that_transformers_takes(buckets: int, farthest: int) -> None:
    span, distance = buckets or farthest, torch.arange(-600, 601)
    place = make_log_bucket_position(distance, buckets, farthest).long() if buckets else distance
    wanted = (place + span).clamp(0, 2 * span - 1).tolist()
    assert row_of_distance(Disentangled(span, buckets, farthest, True, True, True), 600) == wanted


@pytest.mark.parametrize("name", ["v3", "v2", "p2c"])
def test_scores_are_those_that_transformers_attends_by(name: str) -> None:
    model, given = classifier(name), inputs(3, 13, "right")
    ours = rmtkd_edge.from_transformers(model)
    model.set_attn_implementation("eager")
    taps: dict[str, Tensor] = {}
    with torch.no_grad():
        call(ours.eval(), given, taps.__setitem__)
        wanted = model(**given, output_attentions=True).attentions
    real = given["attention_mask"].bool()
    for layer, attention in enumerate(wanted):
        scores = FAMILY.attention_scores(ours.spec, layer, taps, given)
        rows = (found.transpose(1, 2)[real] for found in (scores.softmax(-1), attention))
        torch.testing.assert_close(next(rows), next(rows), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["v3", "v2", "c2p"])
def test_a_model_cut_evenly_goes_back_to_transformers(name: str, tmp_path: Path) -> None:
    spec = rmtkd_edge.from_transformers(classifier(name)).spec
    even = {f"layer.{i}.{kind}": 4 for i in range(2) for kind in ("qk", "value")}
    narrow = FAMILY.initialise(FAMILY.build(spec.with_ranks(even | {"stream": 8, "pooler": 8})), 0).eval()
    shipped, given = FAMILY.standardise(narrow), inputs(4, 20, "right")
    assert not fits_transformers(narrow.spec) and fits_transformers(shipped.spec)
    (tmp_path / "config.json").write_text(json.dumps(FAMILY.config(shipped.spec, "toy")))
    save_file(FAMILY.tensors(shipped), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()(**given).logits
        torch.testing.assert_close(theirs, call(narrow, given), rtol=1e-5, atol=1e-5)


def test_one_cut_of_queries_and_keys_serves_all_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = {
        name: torch.randn(400, 8, generator=generator, dtype=torch.float64)
        @ torch.diag(torch.linspace(2, 0.1, 8, dtype=torch.float64).roll(shift))
        for name, shift in (("q", 0), ("k", 1), ("of distances q", 4), ("of distances k", 5))
    }
    pairs = (("q", "k"), ("q", "of distances k"), ("of distances q", "k"))

    def moment(name: str) -> Tensor:
        return (kinds[name].T @ kinds[name] / 400)[None]

    def lost(left: Tensor, right: Tensor) -> float:
        gap = torch.eye(8, dtype=torch.float64) - left.T @ right
        return sum(float((kinds[a] @ gap @ kinds[b].T).pow(2).mean()) for a, b in pairs)

    keys = moment("k") + moment("of distances k")
    best = lost(*best_factors([(moment("q"), keys), (moment("of distances q"), moment("k"))], 4))
    assert best < 0.8 * lost(*best_factors([(moment("q"), moment("k"))], 4))
    assert best < 0.8 * lost(*best_factors([(moment("q") + moment("of distances q"), keys)], 4))


def test_heads_that_do_little_or_nothing_are_cut_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    thin[1] = 0
    pair = (thin @ thin.mT, torch.eye(6, dtype=torch.float64).expand(2, 6, 6))
    for pairs in ([pair], [pair, pair], [pair, (pair[1] * 0, pair[1])], [(pair[1] * 0, pair[1] * 0)] * 2):
        left, right = best_factors(pairs, 4)
        assert left.isfinite().all() and right.isfinite().all()
        gap = torch.eye(6, dtype=torch.float64) - (left[:4].T @ right[:4])[:6, :6]  # of the first head
        assert not pairs[0][0].any() or (thin[0].T @ gap).abs().max() < 1e-5 * thin.abs().max()


@pytest.mark.parametrize(("first", "second"), [((1, 6), (1, 6)), ((2, 2), (1, 3)), ((6, 1), (2, 6))])
def test_more_channels_than_the_moments_have_directions_are_factored(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)

    def moment(rank: int) -> Tensor:
        x = torch.randn(2, 6, rank, generator=generator, dtype=torch.float64)
        return x @ x.mT

    pairs = [(moment(first[0]), moment(first[1])), (moment(second[0]), moment(second[1]))]
    for rank in range(1, 7):
        left, right = best_factors(pairs, rank)
        assert left.isfinite().all() and right.isfinite().all()
    for head, (a, b) in enumerate(zip(left.split(6), right.split(6), strict=True)):  # six of six lose nothing
        gap = torch.eye(6, dtype=torch.float64) - (a.T @ b)[6 * head : 6 * head + 6, 6 * head : 6 * head + 6]
        for queries, keys in pairs:
            lost, whole = ((queries[head] @ g @ keys[head] @ g.T).trace() for g in (gap, torch.eye(6).double()))
            assert lost < 1e-6 * whole


@pytest.mark.parametrize(("name", "graph", "kind"), [("v2", "fast", "row"), ("c2p", "portable", "token")])
def test_other_settings_are_exported_right(name: str, graph: Any, kind: str, tmp_path: Path) -> None:
    theirs, options = classifier(name), Export(graph=graph)
    theirs = theirs if kind == "row" else DebertaV2ForTokenClassification(theirs.config)
    model, task = rmtkd_edge.from_transformers(theirs).eval(), next(t for t in tasks_of("text") if t.head == kind)
    path, int8, batches = tmp_path / "model.onnx", tmp_path / "int8.onnx", [make_batch(8, 20), make_batch(2, LONGEST)]
    FAMILY.export(model, path, options, {})
    FAMILY.quantise(path, int8, batches, QuantiseOptions(True, 1))
    audit_emitted(path, model.spec, options)
    for file, precision in ((path, "fp32"), (int8, "int8")):
        audit_optimised(file, model.spec, options, precision)  # type: ignore[arg-type]
    left = {name: x.flip(1) for name, x in make_batch(8, 13, 3).items()}
    proof = verify_onnx(path, model, [*batches, left, make_batch(1, 3)], task, threads=1)
    assert proof.relative < 1e-5


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size of 3"),
        ({"attention_head_size": 4}, "size of 4"),
        ({"pooler_hidden_size": 4}, "pooler_hidden_size of 4"),
        ({"position_buckets": 1}, "position_buckets of 1"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    from rmtkd_edge.families.encoder.names import spec_from_config

    config = tiny_classifier("deberta-v2").config
    config.update(changes)
    with pytest.raises(UserError, match=what):
        spec_from_config(config, ("a", "b", "c"))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_what_another_model_type_does_not_read_is_not_read(kind: str) -> None:
    theirs = tiny_classifier(kind)
    before = rmtkd_edge.from_transformers(theirs).spec
    theirs.config.update(
        {
            "position_biased_input": False,
            "attention_head_size": 3,
            "conv_kernel_size": 3,
            "pos_att_type": ["c2p"],
            "relative_attention": True,
            "pooler_hidden_act": "relu",
            "pooler_hidden_size": 3,
            "position_buckets": 1,
        }
    )
    assert rmtkd_edge.from_transformers(theirs).spec == before


def test_queries_of_distances_are_in_the_spectrum() -> None:
    model = rmtkd_edge.from_transformers(classifier("v2", num_hidden_layers=1)).eval()
    site = next(site for site in list_sites(model.spec) if site.kind == "qk")
    analyse = Analyse(minimum_rows=64)
    options = AnalyseOptions(analyse, False, 0, lambda outputs, batch: outputs.sum())
    batch = make_batch(64, 20) | {"index": torch.arange(64)}
    batch["special_tokens_mask"] = torch.zeros_like(batch["input_ids"])
    found = []
    for factor in (1.0, 10.0):
        with torch.no_grad():
            model.layers[0].distance_query.weight *= factor
        found.append(FAMILY.analyse(model, [site], lambda: [batch], None, options)[0].eigenvalues)
    assert (found[1] > 2 * found[0]).any()


def test_the_shape_survives_json() -> None:
    spec = make_spec("deberta-v2")
    assert FAMILY.spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec and spec.terms == 3
