"""A small model, batches and recipe of any family, those of other packages among them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from third_party.install import install
from torch import Tensor

from rmtkd_edge import plugins
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Family, find_family
from rmtkd_edge.methods.base import find_method
from rmtkd_edge.tasks.base import Task, find_task, tasks_of
from rmtkd_edge.tasks.entity_metrics import label_codes

THIRD_PARTY = {"families": ["mlp"], "tasks": ["digit-parity"], "methods": []}  # that tests/third_party brings
SMALL = {  # model.shape of families whose usual shape is slow to test
    "encoder": {"layers": 2, "width": 16, "heads": 2, "ffn": 32, "max_positions": 32, "dropout": 0.0},
    "modernbert": {"layers": 3, "width": 32, "heads": 2, "ffn": 48, "max_positions": 32, "local_attention": 6},
    "resnet": {"width": 8},
    "mobilenet": {"version": "v3-small", "width": 0.35},
    "vit": {"layers": 2, "width": 16, "heads": 2, "ffn": 32, "patch": 4},
    "mlp": {"widths": [24, 16]},
}
EPOCHS = {"encoder": 4, "mobilenet": 6}  # until a model beats the most frequent label
VARIANTS = {"encoder": ("mpnet", "albert", "deberta-v2")}  # further values of model.shape.model_type
LABELS = ("bad", "good", "odd")
SIDE, ROWS, TOKENS = 8, 16, 12


def found(group: str) -> list[str]:
    """Return the names of everything of a group that is installed, or that tests/third_party brings."""
    return sorted({*plugins.names(group), *THIRD_PARTY[group]})


def heads_of(name: str) -> list[str]:
    """Return the heads of a family that a task asks for."""
    if name not in plugins.names("families"):
        return ["row"]
    family = find_family(name)
    return [head for head in family.heads if head in {task.head for task in tasks_of(family.modality)}]


def task_for(family: Family, head: str) -> Task[Any]:
    """Return the family's default task, or the first one of another head."""
    default = find_task(family.default_task)
    return default if default.head == head else next(t for t in tasks_of(family.modality) if t.head == head)


def with_head(family: Family, model: Any, head: str) -> Any:
    """Return the model, or one of its shape with random weights and another head."""
    if model.spec.head == head:
        return model
    spec = replace(model.spec, head=head, labels=() if head == "embedding" else LABELS)
    return family.initialise(family.build(spec), 0).eval()


def outputs_shape(spec: Any, rows: int, tokens: int) -> tuple[int, ...]:
    """Return the shape of the outputs of a batch."""
    width = getattr(spec, "embedding_width", None) or getattr(spec, "width", 0)
    labels = len(spec.labels)
    return {"row": (rows, labels), "token": (rows, tokens, labels), "embedding": (rows, width)}[spec.head]


@contextmanager
def third_party(site: Path) -> Iterator[Path]:
    """Install the package of tests/third_party for a while, and let it be found."""
    if {"mlp"} <= {*plugins.names("families")}:
        yield site
        return
    sys.path.insert(0, str(install(site)))
    forget()
    try:
        yield site
    finally:
        sys.path.remove(str(site))
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlp_family"]:
            del sys.modules[name]
        forget()


def forget() -> None:
    """Let plugins be looked for again."""
    importlib.invalidate_caches()
    for cached in (plugins.names, plugins.find, plugins._entry_points):
        cached.cache_clear()


def recipe_of(name: str, tokenizer: Path, **sections: Any) -> Recipe:
    """Return a recipe of a family that trains, compresses and distils in seconds."""
    family = find_family(name)
    task: dict[str, Any] = {"name": "tiny", "kind": find_task(family.default_task).name}
    model: dict[str, Any] = {"family": name, "source": "scratch", "shape": SMALL.get(name, {})}
    if family.modality == "text":
        task |= {"text": ["text"], "max_length": 24}
        model["tokenizer"] = str(tokenizer)
    data = {
        "title": "tiny",
        "model": model,
        "task": task,
        "train": {"epochs": EPOCHS.get(name, 1), "learning_rate": 3e-3, "batch_size": 64},
        "analyse": {"minimum_rows": 256, "weighting_rows": 64},
        "compress": {"rounds": 1, "sites_per_cycle": 2, "warm_start_tokens": 1000, "warm_start_images": 256},
        "distil": {"steps": 2, "evaluate_every": 2},
        "stop": {"target_reduction": 0.9, "max_drop": 1.0},
    }
    for section, values in sections.items():
        data[section] = {**data[section], **values}
    return parse_recipe(data, "tiny")


def serves(method: str, family: str, tokenizer: Path) -> bool:
    """Return whether a method goes with a family; where it does not, it names those that it serves."""
    try:
        find_method(method).check(recipe_of(family, tokenizer, compress={"method": method}), find_family(family))
    except RecipeError as err:
        assert "it serves" in err.message, err.message
        return False
    return True


def cases() -> list[str]:
    """Return the families that are found, FAMILY/MODEL_TYPE for further model types, FAMILY:HEAD for further heads."""
    more = {f: [f"{f}/{kind}" for kind in VARIANTS.get(f, ())] for f in found("families")}
    return [name for f in more for name in (f, *more[f], *(f"{f}:{head}" for head in heads_of(f) if head != "row"))]


def load_case(case: str, tokenizer: Path) -> Any:
    """Return the small model of one of `cases`, with random weights, in eval mode."""
    name, _, kind = case.partition("/")
    variant = {"model": {"shape": {**SMALL[name], "model_type": kind}}} if kind else {}
    return load(find_family(name), tokenizer, **variant)


def load(family: Family, tokenizer: Path, **sections: Any) -> Any:
    """Return a family's small model with random weights, in eval mode."""
    recipe = recipe_of(family.name, tokenizer, **sections)
    if family.modality == "text":
        from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer

        preprocessing: Any = load_tokenizer(str(tokenizer))
        if recipe.model.shape.get("model_type") == "mpnet":  # its padding token is always the second
            preprocessing.pad_token = preprocessing.convert_ids_to_tokens(1)
    else:
        from rmtkd_edge.tasks.reading.images import ImagePreprocessing

        preprocessing = ImagePreprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), SIDE)
    return family.load(recipe, LABELS, preprocessing)[0].eval()


def batches_of(spec: Any, count: int = 4) -> list[dict[str, Tensor]]:
    """Return batches of a spec's random inputs, with targets and row numbers."""
    made = []
    shape = outputs_shape(spec, ROWS, TOKENS)
    labels = torch.arange(ROWS) % len(LABELS)
    if spec.head == "token":
        labels = (labels[:, None] + torch.arange(TOKENS)) % len(LABELS)
    elif spec.head == "embedding":
        labels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for number in range(count):
        inputs = spec.example_inputs(ROWS, None if spec.max_length is None else TOKENS, number)
        rows = {"labels": labels, "index": torch.arange(ROWS) + ROWS * number}
        if spec.head == "token":
            rows["codes"] = torch.tensor(label_codes(LABELS)).repeat(ROWS, 1)
        made.append({**{name: torch.from_numpy(value) for name, value in inputs.items()}, **rows})
    return made


def bases(spec: Any, share: float = 0.6, seed: int = 0) -> dict[str, Tensor]:
    """Return random projections (k, d) for every site that is there, block-diagonal over heads."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for site in spec.sites():
        if not site.latent:
            shape = (site.width, max(1, round(share * site.width)))
            drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(site.heads)]
            made[site.name] = torch.block_diag(*(torch.linalg.qr(block)[0].T for block in drawn))
    return made


def randomised(model: Any, seed: int = 0) -> Any:
    """Return the model with noise on every parameter, so that zero biases and unit scales hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def projected(family: Family, model: Any, projections: Mapping[str, Tensor], seed: int = 1) -> Any:
    """Return a model with these projections after its producers and random weights."""
    ranks = {site.name: len(projections[site.name]) // site.heads for site in model.spec.sites() if not site.latent}
    narrow = randomised(family.initialise(family.build(model.spec.with_ranks(ranks)), seed), seed).eval()
    return family.unfold(narrow, projections)
