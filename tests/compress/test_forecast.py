"""`compress --dry-run`: what it predicts holds by the family's own counts, and nothing is written or kept."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from config.test_curves import curves

from rmtkd_edge.api.compress import CompressOptions, forecast
from rmtkd_edge.compress.forecast import cost, teacher
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.recipes import list_recipes, load_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.methods.base import find_method, shape_of
from rmtkd_edge.run.records.base import from_json, to_json
from rmtkd_edge.run.records.dry_run import DryRun
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is timed, and one batch is scored."""
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    monkeypatch.setattr(teacher, "SECONDS", 0.0)


@pytest.fixture
def predict(tiny_recipe_file: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the dry run of the tiny recipe with settings; checks that it leaves no file."""
    monkeypatch.chdir(tmp_path)

    def run(*settings: str, **options: Any) -> DryRun:
        before = sorted(tmp_path.rglob("*")), sorted(tiny_data.rglob("*"))
        found = forecast(
            CompressOptions(str(tiny_recipe_file), Path("out"), settings, tiny_data, **options), SilentReporter()
        )
        assert (sorted(tmp_path.rglob("*")), sorted(tiny_data.rglob("*"))) == before
        return found

    return run


@pytest.fixture
def spec(tiny_recipe_file: Path, tiny_tokenizer: Path) -> Any:
    """The shape of the tiny recipe's model."""
    recipe = load_recipe(str(tiny_recipe_file))
    labels = ("negative", "positive")
    return find_family("encoder").load(recipe, labels, load_tokenizer(str(tiny_tokenizer)))[0].spec


def test_a_shape_meets_its_target_and_is_counted_by_the_family(predict: Any, spec: Any) -> None:
    found = predict()
    assert from_json(DryRun, json.loads(json.dumps(to_json(found))), "dry run") == found
    (target,) = found.targets
    family = find_family("encoder")
    assert not found.faults and len(target.shapes) == 1  # the recipe aligns nothing: one multiple for all devices
    for shape in target.shapes:
        narrow = spec.with_ranks(shape.widths)
        assert shape.parameters == narrow.count_parameters() <= 0.25 * spec.count_parameters()
        assert shape.removed == pytest.approx(1 - narrow.count_parameters() / spec.count_parameters())
        assert shape.fp32_bytes == family.file_bytes(narrow, "fp32", "fast")
        assert not shape.ms and not shape.teacher_ms
    assert found.teacher.parameters == spec.count_parameters()
    assert found.teacher.training and found.teacher.scores is None  # random weights score nothing
    options = load_recipe("tiny.toml").compress
    assert {site.name for site in found.sites} == {*family.sites_to_cut(spec, options)}
    for site in found.sites:
        assert site.parameters == spec.count_parameters() - spec.with_ranks({site.name: site.least}).count_parameters()
    assert found.cost.steps == 20 and found.cost.cycles == 2 and found.cost.total > 0
    assert {"local-cpu", "raspberry-pi-5"} <= {*found.without_curves}


def test_devices_of_other_alignments_get_other_widths(predict: Any) -> None:
    (target,) = predict("compress.align=true", on="generic-x86-avx512").targets
    shapes = {shape.multiple: shape for shape in target.shapes}
    assert {4, 8, 16} <= {*shapes} and "generic-x86-avx512" in shapes[16].profiles
    for multiple, shape in shapes.items():
        assert shape.widths["stream"] % multiple == 0 or shape.widths["stream"] == 32


def test_a_family_of_targets_gets_smaller_and_smaller(predict: Any) -> None:
    found = predict(targets=(0.3, 0.6, 0.8))
    sizes = [target.shapes[0].parameters for target in found.targets]
    assert all(a > b for a, b in itertools.pairwise(sizes)) and not found.faults


@pytest.mark.parametrize("setting", ["stop.target_reduction=0.999", "stop.disk_mb=0.0001"])
def test_what_cannot_be_met_is_told_with_what_can(predict: Any, setting: str) -> None:
    settings = [setting, *(['stop.target_reduction="none"'] if "disk" in setting else [])]
    found = predict(*settings)
    ((message, hint),) = found.faults
    key = setting.partition("=")[0]
    assert key in message and f"--set {key}=" in hint and found.targets[0].shapes  # the smallest one
    possible = hint.removeprefix("--set ").partition(",")[0]
    assert not predict(*settings, possible).faults


def test_budgets_of_bytes_are_kept(predict: Any) -> None:
    (target,) = predict("stop.disk_mb=0.03", 'stop.target_reduction="none"').targets
    assert target.shapes[0].parameters * 4 <= 30_000 and "0.03 MB" in target.aim


def test_without_a_target_the_spectra_decide(predict: Any) -> None:
    found = predict('stop.target_reduction="none"')
    assert not found.targets[0].shapes and "spectra" in found.targets[0].how and not found.faults


def test_curves_predict_the_latency(predict: Any, spec: Any, tmp_path: Path) -> None:
    known = load_profile("raspberry-pi-5").model_dump(exclude_none=True)
    calibration = json.loads(curves().model_dump_json())
    (tmp_path / "mine.toml").write_text(
        tomli_w.dumps({**json.loads(json.dumps(known)), "name": "mine", "calibration": calibration}), encoding="utf-8"
    )
    found = predict('stop.profile="mine.toml"')
    (shape,) = (shape for target in found.targets for shape in target.shapes)
    mine = load_profile("mine.toml")
    assert mine.calibration is not None and "mine" not in found.without_curves and [*shape.ms] == ["mine"]
    family, length = find_family("encoder"), min(mine.workloads.seq)
    assert shape.ms["mine"] == family.predict_ms(spec.with_ranks(shape.widths), mine.calibration, length)
    assert shape.ms["mine"] < shape.teacher_ms["mine"] == family.predict_ms(spec, mine.calibration, length)


@pytest.mark.parametrize("name", ["plain-kd", "distilbert", "tinybert"])
def test_a_method_with_shapes_of_its_own_gives_them(predict: Any, spec: Any, name: str) -> None:
    found = predict(method=name)
    recipe = load_recipe("tiny.toml", [f'compress.method="{name}"'])
    family = find_family("encoder")
    widths = find_method(name).widths(spec, family, recipe, 1)
    assert widths is not None and found.targets[0].how == widths.note and found.cost.cycles == 1
    assert found.targets[0].shapes[0].parameters == shape_of(family, spec, widths).count_parameters()


def test_a_trained_model_is_scored_and_one_no_better_than_chance_is_refused(
    predict: Any, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(**shape, vocab_size=64, id2label={0: "negative", 1: "positive"})
    model = BertForSequenceClassification(config)
    model.classifier.bias.data[:] = model.classifier.bias.new_tensor([9.0, -9.0])  # says always the same
    model.save_pretrained(tmp_path / "bert")
    found = predict(f'model.source="{tmp_path / "bert"}"', "model.shape={}")
    assert found.teacher.scores is not None and found.teacher.scores.rows <= found.teacher.validation_rows == 150
    ((message, hint),) = found.faults
    assert "no better than" in message and hint and not found.teacher.training


def test_site_names_are_checked(predict: Any) -> None:
    with pytest.raises(RecipeError, match="no site or kind"):
        predict("compress.ranks={strem=8}")


# --- the recipes that ship, on small data, with small models in place of theirs ---

SMALL = {
    "encoder": "model.shape={layers=2, width=128, heads=4, ffn=256, max_positions=128}",
    "resnet": 'model.shape={depth=18, width=8, stem="cifar"}',
    "mobilenet": 'model.shape={version="v2", width=0.25, stem="cifar"}',
    "modernbert": "model.shape={layers=2, width=64, heads=4, ffn=96, max_positions=128}",
    "vit": "model.shape={layers=2, width=64, heads=4, ffn=128, patch=4}",
}


def write_rows(folder: Path, columns: Mapping[str, list[Any]], parts: Mapping[str, int]) -> None:
    for name, rows in parts.items():
        made = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made[:rows])), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_that_ships_is_predicted(
    name: str, tiny_tokenizer: Path, tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(name)
    settings = ["train.batch_size=8", "distil.batch_size=8"]
    if find_task(recipe.task.kind).labelled:  # random weights have no embeddings to keep
        settings += ['model.source="scratch"', SMALL[recipe.model.family]]
    data = tiny_images
    if recipe.task.kind == "image-classification":
        settings.append("task.image_size=16")
    else:
        settings += ["analyse.minimum_rows=64"]
        settings += [f'model.tokenizer="{tiny_tokenizer}"'] if "scratch" in str(settings) else []
        data = tmp_path / "data"
        data.mkdir()
        labels = recipe.task.labels or ["bad", "good"]
        wanted = {
            "text-classification": [labels[i % len(labels)] for i in range(160)],
            "multi-label": [";".join(labels[: 1 + i % 2]) for i in range(160)],
            "regression": np.linspace(0, 5, 160).round(2).tolist(),
            "sentence-embedding": [""] * 160,
            "token-classification": [["O", "O", "O", "B-X", "I-X"]] * 160,
        }[recipe.task.kind]
        settings += ['task.label_separator=";"'] if recipe.task.kind == "multi-label" else []
        texts: dict[str, list[Any]] = {
            column: [f"the film was {column} {i % 7}" for i in range(160)] for column in recipe.task.text
        }
        if find_task(recipe.task.kind).head == "token":
            texts = {column: [text.split() for text in found] for column, found in texts.items()}
        write_rows(data, {**texts, recipe.task.label: wanted}, {"train": 160, "validation": 32, "test": 32})
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = forecast(CompressOptions(name, Path("out"), tuple(settings), data), SilentReporter())
    assert not found.faults and found.cost.total > 0 and found.sites
    assert all(shape.removed >= target for target in [recipe.stop.target] for shape in found.targets[0].shapes)
    assert sorted(tmp_path.rglob("*")) == before
